"""Our signatures are botocore's, byte for byte."""

import datetime
from unittest import mock

import pytest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import RequestSigner, generate_db_auth_token
from hypothesis import given
from hypothesis import strategies as st

from datakit.auth.credentials import Credentials
from datakit.auth.password import Login
from datakit.auth.rds import IamAuth, rds_token, region_of
from datakit.errors import ConfigError
from datakit.testing import FakeClock

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=6).map(".".join)
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
users = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
moments = st.integers(0, 4_102_444_800)


class Given:
    """Credentials of the test."""

    blocking = False

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.forgotten = 0

    def load(self) -> Credentials:
        return self.credentials

    def forget(self) -> None:
        self.forgotten += 1


def botocores(host: str, port: int, user: str, region: str, keys: Credentials, at: int) -> str:
    """Return the token that botocore makes at the epoch second `at`."""
    credentials = BotocoreCredentials(keys.access_key, keys.secret_key, keys.session_token)
    emitter = HierarchicalEmitter()  # the signer keeps a weak reference alone
    signer = RequestSigner(ServiceId("rds"), region, "rds", "v4", credentials, emitter)
    client = mock.Mock(_request_signer=signer)
    client.meta.region_name = region
    now = datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        token: str = generate_db_auth_token(client, host, port, user)
    return token


@given(
    host=hosts,
    port=st.one_of(st.just(443), st.integers(1, 65535)),
    user=users,
    region=labels,
    access_key=secrets,
    secret_key=secrets,
    session_token=st.one_of(st.none(), secrets, secrets.map(lambda text: text * 20)),
    at=moments,
)
def test_a_token_is_the_one_that_botocore_makes(
    host: str,
    port: int,
    user: str,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    at: int,
) -> None:
    keys = Credentials(access_key, secret_key, session_token)
    clock = FakeClock(wall=float(at))
    auth = IamAuth(region=region, credentials=Given(keys), clock=clock)
    token = auth.login(Login(host, port, user)).password
    assert token == botocores(host, port, user, region, keys, at)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("shop.proxy-abc123.eu-west-1.rds.amazonaws.com", "eu-west-1"),
        ("shop.endpoint.proxy-abc123.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("shop.cluster-abc123.eu-central-1.rds.amazonaws.com.", "eu-central-1"),
        ("shop.cluster-ro-abc123.EU-WEST-1.rds.amazonaws.com", "eu-west-1"),
        ("shop.abc123.ap-southeast-2.rds.amazonaws.com", "ap-southeast-2"),
        ("shop.abc123.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("db.shop.internal", None),
        ("eu-west-1.rds.amazonaws.com.evil.example", None),
    ],
)
def test_the_region_is_read_off_the_host_name(host: str, region: str | None) -> None:
    assert region_of(host) == region


def test_the_environment_holds_keys_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    with pytest.raises(ConfigError, match=r"region of db\.shop\.internal is not known"):
        rds_token("db.shop.internal", 5432, "app")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert "%2Feu-west-3%2Frds-db%2F" in rds_token("db.shop.internal", 5432, "app")
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert "%2Feu-west-2%2Frds-db%2F" in rds_token("db.shop.internal", 5432, "app")
    named = rds_token("shop.abc.eu-west-1.rds.amazonaws.com", 5432, "app")
    assert "%2Feu-west-1%2Frds-db%2F" in named
    assert "X-Amz-Security-Token=session" in named
    assert "%2Fus-east-1%2F" in rds_token("db.shop.internal", 5432, "app", "us-east-1")
