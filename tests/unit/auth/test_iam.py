"""Tokens are kept and thrown away, credentials are found, and neither is shown."""

import asyncio
import datetime
import os
import pickle
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.credentials import RefreshableCredentials
from hypothesis import given
from hypothesis import strategies as st

from datakit.auth import ElastiCacheIam, IamAuth, Login, PasswordAuth, SecretAuth
from datakit.auth.credentials import Credentials, DefaultCredentials, of_environment
from datakit.auth.masked import Masked
from datakit.auth.password import CalledAuth
from datakit.auth.rotation import CURRENT, PENDING, WAITS, stage_for, wait_after
from datakit.auth.sigv4 import presign
from datakit.errors import AuthError
from datakit.testing import FakeClock

WALL = 1_700_000_000.0
DB = Login("shop.abc.eu-west-1.rds.amazonaws.com", 5432, "app")
KEYS = Credentials("AKIDEXAMPLE", "s3cret", "session")
PROFILE = """[default]
aws_access_key_id = AKIDPROFILE
aws_secret_access_key = of-the-profile
aws_session_token = session-of-the-profile
"""


class Given:
    """Credentials of the test."""

    blocking = False

    def __init__(self, credentials: Credentials = KEYS) -> None:
        self.credentials = credentials
        self.forgotten = 0

    def load(self) -> Credentials:
        return self.credentials

    def forget(self) -> None:
        self.forgotten += 1


def an_rds(source: Given, clock: FakeClock) -> PasswordAuth:
    return IamAuth(credentials=source, clock=clock)


def an_elasticache(source: Given, clock: FakeClock) -> PasswordAuth:
    return ElastiCacheIam("shop-cache", "app", region="eu-west-1", credentials=source, clock=clock)


both = pytest.mark.parametrize("make", [an_rds, an_elasticache])


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@both
def test_a_token_is_used_for_its_life_and_made_anew_after_it(make: Any) -> None:
    clock = FakeClock(wall=WALL)
    auth = make(Given(), clock)
    first = auth.login(DB).password
    clock.advance(599.0)
    assert auth.login(DB).password is first
    clock.advance(1.0)
    second = auth.login(DB).password
    assert second != first
    clock.advance_wall(601.0)  # a frozen process
    assert auth.login(DB).password not in (first, second)


@both
def test_a_token_ends_with_its_credentials(make: Any) -> None:
    clock = FakeClock(wall=WALL)
    source = Given(Credentials("AKIDEXAMPLE", "s3cret", "session", expires_at=WALL + 100.0))
    auth = make(source, clock)
    first = auth.login(DB).password
    clock.advance(99.0)
    assert auth.login(DB).password is first
    clock.advance(1.0)
    assert auth.login(DB).password != first


@both
def test_another_access_key_gives_another_token_at_once(make: Any) -> None:
    source = Given()
    auth = make(source, FakeClock(wall=WALL))
    first = auth.login(DB).password
    source.credentials = Credentials("AKIDOTHER", "0ther", "session")
    second = auth.login(DB).password
    assert "AKIDOTHER" in second
    assert "AKIDOTHER" not in first
    source.credentials = KEYS
    assert auth.login(DB).password is first


def test_a_token_is_for_one_endpoint_and_user() -> None:
    auth = IamAuth(region="eu-west-1", credentials=Given(), clock=FakeClock(wall=WALL))
    logins = [Login("a", 1, "u"), Login("b", 1, "u"), Login("a", 2, "u"), Login("a", 1, "v")]
    tokens = [auth.login(login).password for login in logins]
    assert len(set(tokens)) == 4
    assert [auth.login(login).password for login in logins] == tokens


def test_a_token_is_for_the_host_and_port_that_are_given() -> None:
    auth = IamAuth(host=DB.host, port=6543, credentials=Given(), clock=FakeClock(wall=WALL))
    login = auth.login(Login("tunnel.internal", 15432, "app"))
    assert (login.host, login.port, login.user) == ("tunnel.internal", 15432, "app")
    assert login.password is not None
    assert login.password.startswith(f"{DB.host}:6543/?Action=connect&DBUser=app&")
    assert "%2Feu-west-1%2Frds-db%2F" in login.password


@both
def test_a_refused_token_is_replaced_once_with_credentials_found_anew(make: Any) -> None:
    clock, source = FakeClock(wall=WALL), Given()
    auth = make(source, clock)
    first = auth.login(DB)
    clock.advance(2.0)
    assert auth.login(DB).password == first.password
    assert auth.refused(first, 1) == 0.0
    assert source.forgotten == 1
    second = auth.login(DB)
    assert second.password != first.password
    assert auth.refused(second, 2) is None


@pytest.mark.usefixtures("clean")
def test_credentials_of_a_profile_are_found_and_read_anew_when_refused(tmp_path: Path) -> None:
    profile = tmp_path / "credentials"
    profile.write_text(PROFILE)
    source = DefaultCredentials()
    assert source.blocking
    found = Credentials("AKIDPROFILE", "of-the-profile", "session-of-the-profile")
    assert source.load() == found
    profile.write_text(PROFILE.replace("AKIDPROFILE", "AKIDROTATED"))
    assert source.load() == found
    source.forget()
    assert source.load().access_key == "AKIDROTATED"


@pytest.mark.usefixtures("clean")
def test_keys_of_the_environment_are_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = DefaultCredentials()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDONE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    assert not source.blocking
    assert source.load() == Credentials("AKIDONE", "s3cret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTWO")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    assert source.load() == Credentials("AKIDTWO", "s3cret", "session")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_ACCESS_KEY_ID": "AKID"},
        {"AWS_SECRET_ACCESS_KEY": "s3cret"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "s3cret"},
        {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": ""},
    ],
)
def test_half_a_pair_of_keys_is_none(variables: dict[str, str]) -> None:
    assert of_environment(variables) is None


def refreshed(access_key: str, ends_in: float) -> dict[str, str]:
    end = datetime.datetime.fromtimestamp(WALL + ends_in, datetime.UTC)
    return {
        "access_key": access_key,
        "secret_key": "s3cret",
        "token": f"session of {access_key}",
        "expiry_time": end.isoformat(),
    }


def test_a_token_ends_with_the_role_that_botocore_took_on(clean: None) -> None:
    """botocore renews its credentials a quarter of an hour ahead, which gives another token."""
    clock = FakeClock(wall=WALL)

    def by_clock() -> datetime.datetime:
        return datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC)

    role = RefreshableCredentials.create_from_metadata(
        refreshed("AKIDROLE", 150.0),
        refresh_using=lambda: {},
        method="test",
        advisory_timeout=0,
        mandatory_timeout=0,
    )
    role._time_fetcher = by_clock
    source = DefaultCredentials()
    source._found = role
    assert source.load().expires_at == WALL + 150.0
    auth = IamAuth(credentials=source, clock=clock)
    first = auth.login(DB).password
    clock.advance(149.0)
    assert auth.login(DB).password is first
    role._refresh_using = lambda: refreshed("AKIDRENEWED", 3_600.0)
    clock.advance(2.0)
    renewed = auth.login(DB).password
    assert renewed is not None
    assert "AKIDRENEWED" in renewed
    assert source.load().expires_at == WALL + 3_600.0


def test_credentials_that_cannot_be_renewed_are_told(clean: None) -> None:
    def unrenewed() -> dict[str, str]:
        return {"access_key": "AKID"}  # which botocore answers with CredentialRetrievalError

    role = RefreshableCredentials.create_from_metadata(
        refreshed("AKIDROLE", 10.0), refresh_using=unrenewed, method="test"
    )
    source = DefaultCredentials()
    source._found = role
    with pytest.raises(AuthError, match="could not be found"):
        source.load()


@pytest.mark.usefixtures("clean")
def test_no_credentials_is_an_error_that_names_the_variables() -> None:
    with pytest.raises(AuthError, match=r"AWS_ACCESS_KEY_ID.*AWS_SECRET_ACCESS_KEY"):
        IamAuth().login(DB)


def run(code: str, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**kept, "AWS_EC2_METADATA_DISABLED": "true", **variables}
    command = [sys.executable, "-P", "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TOKEN = """
import sys
from datakit.auth import rds_token
token = rds_token("shop.abc.eu-west-1.rds.amazonaws.com", 5432, "app")
print(token.partition("%2F")[0].rpartition("=")[2], "botocore" in sys.modules)
"""


def test_botocore_stays_unloaded_where_the_environment_holds_the_keys(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    assert run(TOKEN, **keys) == "AKIDENV False"
    profile = tmp_path / "credentials"
    profile.write_text(PROFILE)
    assert run(TOKEN, AWS_SHARED_CREDENTIALS_FILE=str(profile)) == "AKIDPROFILE True"


@pytest.mark.parametrize("auth", ["IamAuth()", "SecretAuth('prod/shop')"])
def test_without_botocore_the_extra_to_install_is_named(auth: str) -> None:
    code = f"""
import sys
sys.modules["botocore"] = None
from datakit.auth import IamAuth, Login, SecretAuth
from datakit.errors import MissingExtraError
try:
    {auth}.login(Login("shop.abc.eu-west-1.rds.amazonaws.com", 5432, "app"))
except MissingExtraError as exc:
    print(exc)
"""
    assert run(code).endswith("pip install 'datakit[aws]'")


def test_no_secret_is_shown() -> None:
    clock = FakeClock(wall=WALL)
    keys = Credentials("AKIDEXAMPLE", "canary", "canary", expires_at=WALL)
    shown: list[object] = [keys, Masked("canary"), [Masked("canary")], DefaultCredentials()]
    for auth in (
        IamAuth(credentials=Given(keys), clock=clock),
        ElastiCacheIam("shop", "app", region="r-1", credentials=Given(keys), clock=clock),
    ):
        login = auth.login(DB)
        assert login.password is not None
        assert "canary" in login.password  # the session token
        shown += [auth, login, auth._tokens, *auth._tokens._tokens.values()]
    secret = SecretAuth("prod/shop")
    secret._known = ("app", "canary")
    called = CalledAuth(lambda: "canary")
    shown += [secret, called, called.login(DB)]
    for one in shown:
        assert "canary" not in repr(one)


def test_a_masked_password_is_still_the_password() -> None:
    masked = Masked("s3cret")
    assert masked == "s3cret"
    assert f"{masked}" == "s3cret"
    assert masked.encode() == b"s3cret"
    assert pickle.loads(pickle.dumps(masked)) == "s3cret"
    assert repr(masked) == "'***'"


async def test_a_callable_gives_the_password_sync_or_awaited() -> None:
    threads: list[str] = []

    def blocking() -> str:
        threads.append(threading.current_thread().name)
        return "s3cret"

    async def awaited() -> str:
        await asyncio.sleep(0)
        return "awaited"

    sync, coroutine, wrapped = (
        CalledAuth(blocking),
        CalledAuth(awaited),
        CalledAuth(lambda: awaited()),
    )
    assert sync.login(DB).password == (await sync.alogin(DB)).password == "s3cret"
    assert (await coroutine.alogin(DB)).password == "awaited"
    assert (await wrapped.alogin(DB)).password == "awaited"
    assert threads[0] != threads[1]  # not on the event loop's
    assert sync.refused(DB, 1) == 0.0
    assert sync.refused(DB, 2) is None


def variables_of_datakit(error: BaseException) -> str:
    """Return the variables of datakit's own frames in the traceback."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return str([frame.locals for frame in shown.stack if "/datakit/" in frame.filename])


@pytest.mark.parametrize("returned", [None, b"canary", 7])
def test_a_callable_that_returns_no_text_is_told(returned: object) -> None:
    auth = CalledAuth(lambda: returned)  # type: ignore[arg-type,return-value]
    expected = f"returned {type(returned).__name__}, expected the password as text"
    for login in (auth.login, lambda login: asyncio.run(auth.alogin(login))):
        with pytest.raises(AuthError, match=expected) as caught:
            login(DB)
        frames = variables_of_datakit(caught.value)
        assert "returned" in frames
        assert "canary" not in frames + str(caught.value)


def test_an_async_callable_on_a_sync_engine_is_told() -> None:
    async def awaited() -> str:
        return "s3cret"

    with pytest.raises(AuthError, match="needs create_async_engine"):
        CalledAuth(awaited).login(DB)


# ElastiCache

names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,38}[A-Za-z0-9]", fullmatch=True)
users = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
regions = st.sampled_from(["eu-west-1", "us-gov-east-1", "cn-north-1"])


def botocores(
    cache: str, user: str, region: str, keys: Credentials, at: int, *, serverless: bool
) -> str:
    """Return the token by the recipe of redis-py's and AWS's examples."""
    query = {"Action": "connect", "User": user}
    if serverless:
        query["ResourceType"] = "ServerlessCache"
    url = f"https://{cache.lower()}/?{urlencode(query, quote_via=quote, safe='-._~')}"
    request = AWSRequest("GET", url)
    credentials = BotocoreCredentials(keys.access_key, keys.secret_key, keys.session_token)
    now = datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        SigV4QueryAuth(credentials, "elasticache", region, expires=900).add_auth(request)
    return str(request.url).removeprefix("https://")


@given(
    cache=names,
    user=users,
    region=regions,
    access_key=secrets,
    secret_key=secrets,
    session_token=st.one_of(st.none(), secrets),
    at=st.integers(0, 4_102_444_800),
    serverless=st.booleans(),
)
def test_an_elasticache_token_is_the_one_that_botocore_makes(
    cache: str,
    user: str,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    at: int,
    serverless: bool,
) -> None:
    keys = Credentials(access_key, secret_key, session_token)
    auth = ElastiCacheIam(
        cache,
        user,
        region=region,
        serverless=serverless,
        credentials=Given(keys),
        clock=FakeClock(wall=float(at)),
    )
    login = auth.login(Login("master.shop.abc.euw1.cache.amazonaws.com", 6379, "default"))
    assert login.user == user
    assert login.host == "master.shop.abc.euw1.cache.amazonaws.com"
    assert login.password == botocores(cache, user, region, keys, at, serverless=serverless)


def test_the_region_of_a_cache_is_the_environments(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    password = ElastiCacheIam("shop", "app", credentials=Given()).login(DB).password
    assert password is not None
    assert password.startswith("shop/?Action=connect&User=app&")
    assert "%2Feu-west-2%2Felasticache%2F" in password


def test_a_host_name_is_signed_in_lower_case() -> None:
    """As HTTP clients send it, and botocore signs it; the token shows it as it was given."""

    def signed(host: str) -> str:
        return presign(
            host=host, port=5432, params={}, service="rds-db", region="r", credentials=KEYS,
            at=WALL, expires=900,
        )  # fmt: skip

    assert signed("DB.Example").replace("DB.Example", "db.example") == signed("db.example")
    assert signed("DB.Example").startswith("DB.Example:5432/")


# rotation


def test_the_current_and_the_pending_version_are_tried_in_turn() -> None:
    stages = [stage_for(failures) for failures in range(7)]
    assert stages == [CURRENT, CURRENT, PENDING, CURRENT, PENDING, CURRENT, PENDING]


def test_the_waits_cross_a_rotation_and_end() -> None:
    """Both versions are tried at once; the last attempt is more than 7 s after the first."""
    waits = [wait_after(failures) for failures in range(1, len(WAITS) + 2)]
    assert waits[:2] == [0.0, 0.0]
    assert waits[-1] is None
    known = [wait for wait in waits if wait is not None]
    assert known == sorted(known)
    assert 7.0 <= sum(known) <= 8.0
