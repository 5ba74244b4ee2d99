"""No password, token or key is shown: not by logs, names, events, tracebacks or copies."""

import asyncio
import contextlib
import copy
import json
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.integration.db.conftest import Database

from datakit import IamAuth, RetryPolicy, SecretAuth, Tls, attach, events
from datakit.auth import Login, PasswordAuth
from datakit.auth.credentials import Credentials, DefaultCredentials
from datakit.db import describe
from datakit.db.description import _connectors
from datakit.errors import AuthError
from datakit.testing import DnsServer, FakeClock

from .conftest import NAME, WALL, Server, Source, both_servers, point, without_password

Opened = Callable[..., Database]
CANARY = "canary7731"
REGION = "eu-west-1"
RIGHT = f"{CANARY}-right"
WRONG = f"{CANARY}-wrong"
FAST = RetryPolicy(attempts=2, deadline=3, base=0.01)
FASTER = RetryPolicy(attempts=2, deadline=0.3, base=0.01)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    yield from both_servers(RIGHT)


@pytest.fixture
def server(family: str, servers: dict[str, Server]) -> Server:
    return servers[family]


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Watch:
    """Everything that is said while a test runs."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self._log = log
        self.events: list[events.Event] = []
        self.warnings: list[warnings.WarningMessage] = []

    def said(self) -> str:
        logged = [f"{r.name}: {r.getMessage()} {r.args!r} {r.exc_text}" for r in self._log.records]
        return "\n".join([*logged, repr(self.events), *(str(w.message) for w in self.warnings)])


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    caplog.set_level(logging.DEBUG)
    for name in [*logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    watch = Watch(caplog)
    remove = events.subscribe(watch.events.append)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.warnings = caught
        yield watch
    remove()


def others_frames(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Return the frames that are not the test's own, which does know the canary."""
    return [frame for frame in stack if "/tests/" not in frame.filename]


def rendered(error: BaseException) -> str:
    """Return an exception's whole chain with the variables of all frames."""
    texts: list[str] = []
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        links += [link.__cause__, link.__context__]
        shown = traceback.TracebackException.from_exception(link, capture_locals=True)
        texts += [f"{f.filename} {f.name} {f.locals}" for f in others_frames(shown.stack)]
        texts += [repr(link), str(link), repr(vars(link)), repr(link.args)]
        texts += getattr(link, "__notes__", ())
        texts.append(repr(copy.copy(link)))
        texts.append(repr(pickle.dumps(link)))
    return "\n".join(texts)


def check(text: str) -> None:
    """Fail at the first place that holds the canary."""
    for form in (CANARY, quote(CANARY), CANARY.encode().hex()):
        at = text.find(form)
        assert at < 0, f"shown: ...{text[max(0, at - 600) : at + 60]}..."


def check_engine(database: Database) -> None:
    bind = database.bind
    engine = bind.sync_engine if isinstance(bind, AsyncEngine) else bind
    connector = _connectors[engine]
    parts = (
        database.bind, engine, engine.url, engine.pool, engine.dialect, connector,
        connector.target, connector.target.auth, connector.target.tls, vars(connector),
    )  # fmt: skip
    check("\n".join([repr(part) for part in parts] + [str(part) for part in parts]))
    check(describe(database.bind))


def iam(secret: str) -> IamAuth:
    keys = Credentials("AKIDEXAMPLE", f"{secret}-key", f"{secret}-session" * 10)
    return IamAuth(region=REGION, credentials=Source(keys), clock=FakeClock(wall=WALL))


@pytest.fixture
def auths(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Callable[[], PasswordAuth | Callable[[], str] | None]]:
    """Ways to log in with a password that is wrong."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{CANARY}-session")
    monkeypatch.setattr("datakit.auth.rotation.WAITS", (0.0, 0.0))

    def secret() -> SecretAuth:
        auth = SecretAuth("prod/shop", region=REGION, endpoint_url=moto_url)
        value = json.dumps({"password": WRONG, "username": "app"})
        with contextlib.suppress(auth._client.exceptions.ResourceExistsException):
            auth._client.create_secret(Name="prod/shop", SecretString=value)
        return auth

    return {
        "url": lambda: None,
        "callable": lambda: lambda: WRONG,
        "iam": lambda: iam(CANARY),
        "secret": secret,
    }


FAILURES = ["refused", "dead", "untrusted", "name", "database", "plain"]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", ["url", "callable", "iam", "secret"])
async def test_a_failure_to_connect_shows_no_secret(
    opened: Opened,
    server: Server,
    dns_server: DnsServer,
    watch: Watch,
    auths: dict[str, Callable[[], Any]],
    way: str,
    failure: str,
) -> None:
    if failure == "plain" and way == "iam":
        failure = "untrusted"  # refused at creation otherwise
    auth = auths[way]()
    watch._log.clear()  # of the preparations
    host = "other.shop.internal" if failure == "name" else NAME
    servers = point(dns_server, "127.0.0.250" if failure == "dead" else server.address, host)
    password = RIGHT if failure == "database" else WRONG
    if failure == "database" and way == "callable":
        auth = lambda: RIGHT  # noqa: E731
    url = without_password(server, host)
    if way == "url":
        url = url.replace("//app@", f"//app:{password}@")
    if failure == "database":
        url = url.rpartition("/")[0] + "/nowhere"
    tls: Tls | str = Tls() if failure == "untrusted" else Tls(ca=server.certificate)
    if failure == "plain":
        tls = "off"
    retry = FASTER if failure == "dead" else FAST  # it is tried until the deadline
    database = opened(url, servers=servers, auth=auth, tls=tls, retry=retry)
    check_engine(database)
    with pytest.raises(OperationalError) as caught:
        await database.scalar("SELECT 1")
    assert caught.value.__traceback__ is not None
    check(rendered(caught.value))
    check(watch.said())
    check_engine(database)


@pytest.mark.parametrize("way", ["url", "callable"])
async def test_success_shows_no_secret(
    opened: Opened, server: Server, dns_server: DnsServer, watch: Watch, way: str
) -> None:
    url = without_password(server, NAME)
    if way == "url":
        url = url.replace("//app@", f"//app:{RIGHT}@")
    auth = None if way == "url" else lambda: RIGHT
    servers = point(dns_server, server.address)
    database = opened(url, servers=servers, auth=auth, tls=Tls(ca=server.certificate), echo="debug")
    assert await database.scalar("SELECT 1") == 1
    assert "SELECT 1" in watch.said()  # so it does listen
    check(watch.said())
    check_engine(database)


async def test_an_attempt_that_is_interrupted_shows_no_secret(
    opened: Opened, server: Server, dns_server: DnsServer, kind: str, watch: Watch
) -> None:
    """A cancelled task's frames hold what the driver was given."""
    servers = point(dns_server, server.address)
    url = without_password(server, NAME).replace("//app@", f"//app:{RIGHT}@")
    database = opened(url, servers=servers, tls=Tls(ca=server.certificate))
    connect = asyncio.create_task(database.scalar("SELECT 1"))
    server.stop_process()
    try:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.3):
                await connect
    finally:
        server.resume_process()
    check(rendered(caught.value))
    check(watch.said())


async def test_a_password_among_the_connect_args_is_not_shown(
    opened: Opened, server: Server, watch: Watch
) -> None:
    arguments = {"password": WRONG}
    tls = Tls(ca=server.certificate)
    database = opened(without_password(server), connect_args=arguments, tls=tls, retry=FAST)
    with pytest.raises(OperationalError) as caught:
        await database.scalar("SELECT 1")
    check(rendered(caught.value))
    check(watch.said())
    assert arguments == {"password": WRONG}


def test_an_attached_engine_shows_no_secret(server: Server, watch: Watch) -> None:
    """Not even in SQLAlchemy's own frames, which held the password before datakit came."""
    engine = attach(
        create_engine(server.url().replace(quote(RIGHT), WRONG)),
        tls=Tls(ca=server.certificate),
        retry=FAST,
    )
    with pytest.raises(OperationalError) as caught, engine.connect():
        pass
    engine.dispose()
    text = rendered(caught.value)
    assert "do_connect" in text
    check(text)
    check(watch.said())


@pytest.mark.parametrize("value", [{"passwort": WRONG}, {"password": 7, "other": WRONG}], ids=str)
def test_a_secret_without_a_password_is_not_shown(
    auths: dict[str, Any], watch: Watch, value: dict[str, Any]
) -> None:
    auth = auths["secret"]()
    auth._client.put_secret_value(SecretId="prod/shop", SecretString=json.dumps(value))
    watch._log.clear()
    with pytest.raises(AuthError, match="no field 'password'") as caught:
        auth.login(Login("db", 1, "app"))
    check(rendered(caught.value))
    check(watch.said())
    auth._client.put_secret_value(
        SecretId="prod/shop", SecretString=json.dumps({"password": WRONG, "username": "app"})
    )


@pytest.mark.parametrize("name", ["missing", "unreachable"])
def test_a_secret_that_cannot_be_fetched_shows_no_credentials(
    auths: dict[str, Any], moto_url: str, watch: Watch, name: str
) -> None:
    """The request, with the session token in its headers, is a variable in botocore's frames."""
    url = moto_url if name == "missing" else "http://127.0.0.1:1"
    auth = SecretAuth("prod/missing", region=REGION, endpoint_url=url)
    with pytest.raises(AuthError, match="could not be fetched") as caught:
        auth.login(Login("db", 1, "app"))
    check(rendered(caught.value))
    check(watch.said())


def test_a_role_that_botocore_takes_on_is_not_logged(
    moto_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, watch: Watch
) -> None:
    """Its keys come in an answer of STS, which botocore logs at DEBUG."""
    (tmp_path / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/shop\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = {CANARY}-base\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_url)
    keys = DefaultCredentials().load()
    assert keys.expires_at is not None
    assert keys.session_token is not None
    assert watch.said()
    for secret in (keys.secret_key, keys.session_token, CANARY):
        assert secret not in watch.said()
