"""Passwords of Secrets Manager, through a rotation of a real PostgreSQL's. moto is the API."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import botocore.session
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy.exc import OperationalError
from tests.integration.db.conftest import Database

from datakit import SecretAuth, Tls, deadline
from datakit.auth import Login
from datakit.auth.rotation import CURRENT, PENDING
from datakit.errors import AuthError, DeadlineExceededError
from datakit.testing import PostgresCluster, PostgresNode
from datakit.testing._wait import until

from .conftest import without_password

Opened = Callable[..., Database]
FIRST, SECOND = "f1rst canary", "sec0nd canary"
REGION = "eu-west-1"
LOGIN = Login("db.shop.internal", 5432, "app")


class SecretsManager:
    """moto's, with what a rotation does to it."""

    def __init__(self, endpoint_url: str) -> None:
        self.url = endpoint_url
        session = botocore.session.get_session()
        self._client = session.create_client(
            "secretsmanager", region_name=REGION, endpoint_url=endpoint_url
        )

    def create(self, name: str, value: str) -> None:
        self._client.create_secret(Name=name, SecretString=value)

    def put_pending(self, name: str, value: str) -> None:
        self._client.put_secret_value(
            SecretId=name, SecretString=value, VersionStages=[PENDING], ClientRequestToken="p" * 32
        )

    def finish(self, name: str) -> None:
        """Make the pending version the current one."""
        versions = self._client.describe_secret(SecretId=name)["VersionIdsToStages"]
        old = next(version for version, stages in versions.items() if CURRENT in stages)
        self._client.update_secret_version_stage(
            SecretId=name, VersionStage=CURRENT, MoveToVersionId="p" * 32, RemoveFromVersionId=old
        )

    def auth(self, name: str) -> "Counting":
        return Counting(name, region=REGION, endpoint_url=self.url)


class Counting(SecretAuth):
    """Notes the stages that are fetched, and takes its time for it when told to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stages: list[str] = []
        self.takes = 0.0

    def _text(self) -> str:
        self.stages.append(self._stage)
        time.sleep(self.takes)
        return super()._text()


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def secrets(endpoint_url: str, monkeypatch: pytest.MonkeyPatch) -> SecretsManager:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    return SecretsManager(endpoint_url)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A secret of the test's own."""
    return f"prod/{request.node.name}".replace("[", "-").replace("]", "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster(standbys=0, tls=True, password=FIRST) as cluster:
        yield cluster


@pytest.fixture
def server(cluster: PostgresCluster) -> Iterator[PostgresNode]:
    yield cluster.primary
    set_password(cluster.primary, FIRST)


def set_password(server: PostgresNode, password: str, role: str = "app") -> None:
    with server._connect() as connection:
        connection.execute(f"alter role {role} password '{password}'".encode())


def stored(password: str, **fields: str) -> str:
    return json.dumps({"engine": "postgres", "password": password, **fields})


async def test_a_rotation_is_passed_through_without_an_error(
    opened: Opened, server: PostgresNode, secrets: SecretsManager, name: str
) -> None:
    """The database takes the pending password first, which becomes the current one last."""
    secrets.create(name, stored(FIRST, username="app"))
    auth = secrets.auth(name)

    async def connects() -> None:
        database = opened(
            without_password(server), auth=auth, tls=Tls(ca=server.certificate), pool_size=1
        )
        assert await database.scalar("SELECT 1") == 1

    await connects()
    assert auth.stages == [CURRENT]
    secrets.put_pending(name, stored(SECOND, username="app"))
    await connects()
    assert auth.stages == [CURRENT]  # kept
    set_password(server, SECOND)
    await connects()
    assert auth.stages == [CURRENT, CURRENT, PENDING]
    await connects()
    assert auth.stages == [CURRENT, CURRENT, PENDING]
    secrets.finish(name)
    await connects()
    fresh = secrets.auth(name)
    database = opened(without_password(server), auth=fresh, tls=Tls(ca=server.certificate))
    assert await database.scalar("SELECT 1") == 1
    assert fresh.stages == [CURRENT]


async def test_a_password_that_no_version_has_ends_the_attempts(
    opened: Opened,
    server: PostgresNode,
    secrets: SecretsManager,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A secret without a pending version gives its current one in the place of that."""
    monkeypatch.setattr("datakit.auth.rotation.WAITS", (0.0, 0.0, 0.01))
    secrets.create(name, stored("never right"))
    auth = secrets.auth(name)
    database = opened(without_password(server), auth=auth, tls=Tls(ca=server.certificate))
    with pytest.raises(OperationalError, match="password authentication failed"):
        await database.scalar("SELECT 1")
    assert auth.stages == [CURRENT, CURRENT, PENDING, CURRENT]


async def test_the_pending_password_may_be_set_late(
    opened: Opened, server: PostgresNode, secrets: SecretsManager, name: str
) -> None:
    """The rotation sets it in the database while the engine looks for one that is right."""
    secrets.create(name, stored("not any more"))
    set_password(server, SECOND)
    auth = secrets.auth(name)

    def put_late() -> None:
        until(lambda: len(auth.stages) > 3, "a second round")
        secrets.put_pending(name, stored(SECOND))

    late = threading.Thread(target=put_late)
    late.start()
    database = opened(without_password(server), auth=auth, tls=Tls(ca=server.certificate))
    assert await database.scalar("SELECT 1") == 1
    late.join()
    assert auth.stages[-1] == PENDING


async def test_the_user_of_the_secret_wins_over_the_urls(
    opened: Opened, server: PostgresNode, secrets: SecretsManager, name: str
) -> None:
    """A rotation between two users has the other one's name in its next version."""
    with server._connect() as connection:
        connection.execute(b"drop role if exists app_clone")
        connection.execute(b"create role app_clone login password 'cl0ne'")
    secrets.create(name, stored(FIRST, username="app"))
    auth = secrets.auth(name)
    tls = Tls(ca=server.certificate)
    url = without_password(server).replace("//app@", "//nobody@")
    assert await opened(url, auth=auth, tls=tls).scalar("SELECT current_user") == "app"
    secrets.put_pending(name, stored("cl0ne", username="app_clone"))
    secrets.finish(name)
    set_password(server, "gone")
    assert await opened(url, auth=auth, tls=tls).scalar("SELECT current_user") == "app_clone"


@pytest.mark.parametrize("text", [FIRST, "12345", '"quoted"', "[1]"])
def test_a_secret_that_is_no_object_is_the_password_itself(
    secrets: SecretsManager, name: str, text: str
) -> None:
    secrets.create(name, text)
    login = secrets.auth(name).login(LOGIN)
    assert (login.user, login.password) == ("app", text)


async def test_a_missing_secret_is_told_at_once(
    opened: Opened, server: PostgresNode, secrets: SecretsManager
) -> None:
    auth = secrets.auth("prod/nothing-here")
    database = opened(without_password(server), auth=auth, tls=Tls(ca=server.certificate))
    with pytest.raises(AuthError, match="prod/nothing-here could not be fetched") as caught:
        await database.scalar("SELECT 1")
    assert auth.stages == [CURRENT]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ['{"passwort": "canary"}', '{"password": 7, "other": "canary"}', "{}"],
    ids=["other", "number", "empty"],
)
def test_an_object_without_a_password_is_told_without_what_it_holds(
    secrets: SecretsManager, name: str, value: str
) -> None:
    secrets.create(name, value)
    with pytest.raises(AuthError, match="no field 'password'") as caught:
        secrets.auth(name).login(LOGIN)
    assert "canary" not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_told(secrets: SecretsManager) -> None:
    auth = SecretAuth("prod/shop", region=REGION, endpoint_url="http://127.0.0.1:1")
    auth._client.meta.config.retries["total_max_attempts"] = 1
    with pytest.raises(AuthError, match=r"prod/shop could not be fetched.*127\.0\.0\.1:1"):
        auth.login(LOGIN)


def test_a_silent_secrets_manager_holds_nobody_beyond_the_deadline(
    secrets: SecretsManager,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        auth = SecretAuth("prod/shop", region=REGION, endpoint_url=url)
        began = time.monotonic()
        with deadline(0.5), pytest.raises(DeadlineExceededError, match="prod/shop"):
            auth.login(LOGIN)
        assert time.monotonic() - began < 10  # three times 5 s otherwise


def test_a_fetch_within_a_near_deadline_finds_the_secret(
    secrets: SecretsManager, name: str
) -> None:
    secrets.create(name, stored(FIRST))
    with deadline(5.0):
        assert secrets.auth(name).login(LOGIN).password == FIRST


def test_the_region_is_read_off_the_arn() -> None:
    arn = "arn:aws:secretsmanager:eu-south-2:123456789012:secret:prod/shop-AbCdEf"
    assert SecretAuth(arn)._client.meta.region_name == "eu-south-2"
    assert SecretAuth(arn, region=REGION)._client.meta.region_name == REGION


def test_threads_that_come_at_once_share_a_fetch(secrets: SecretsManager, name: str) -> None:
    secrets.create(name, stored(FIRST))
    auth = secrets.auth(name)
    auth.takes = 0.2
    barrier = threading.Barrier(20)

    def come(_: int) -> str | None:
        barrier.wait(10)
        return auth.login(LOGIN).password

    with ThreadPoolExecutor(20) as threads:
        assert Counter(threads.map(come, range(20))) == {FIRST: 20}
    assert auth.stages == [CURRENT]


async def test_tasks_share_a_fetch_that_does_not_stall_the_event_loop(
    secrets: SecretsManager, name: str
) -> None:
    secrets.create(name, stored(FIRST))
    auth = secrets.auth(name)
    auth.takes = 0.5
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    logins = await asyncio.gather(*(auth.alogin(LOGIN) for _ in range(50)))
    ticker.cancel()
    assert Counter(login.password for login in logins) == {FIRST: 50}
    assert auth.stages == [CURRENT]
    assert ticks >= 10  # of 50 and more


def test_threads_that_are_refused_at_once_share_the_next_fetch(
    secrets: SecretsManager, name: str
) -> None:
    secrets.create(name, stored(FIRST))
    auth = secrets.auth(name)
    old = [auth.login(LOGIN) for _ in range(20)]
    for login in old:
        assert auth.refused(login, 1) == 0.0
    auth.login(LOGIN)
    auth.refused(Login(LOGIN.host, LOGIN.port, "app", "an older one"), 1)  # not the one known
    auth.login(LOGIN)
    assert auth.stages == [CURRENT, CURRENT]
