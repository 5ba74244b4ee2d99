"""IAM tokens of a kilobyte log in over verified TLS, and never go anywhere else."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymysql import err
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.util import greenlet_spawn
from tests.integration.db.conftest import Database

from datakit import IamAuth, RetryPolicy, Tls, create_async_engine, create_engine
from datakit.auth import Login
from datakit.auth.credentials import Credentials
from datakit.db.drivers import driver_for
from datakit.db.endpoint import endpoint_for
from datakit.errors import ConfigError
from datakit.resilience import Rule, Verdict
from datakit.testing import DnsServer, FakeClock
from datakit.testing._certificate import Certificate, make_certificate
from datakit.testing._run_directory import RunDirectory

from .conftest import NAME, WALL, Server, Source, both_servers, point, without_password
from .mysql_endpoint import MysqlEndpoint
from .postgres_endpoint import PostgresEndpoint

Opened = Callable[..., Database]
KEYS = Credentials("AKIDCURRENT", "s3cret", "session/" * 90)
STALE = Credentials("AKIDSTALE", "s3cret", "session/" * 90)
FAST = RetryPolicy(attempts=1, deadline=10)


def iam(*credentials: Credentials) -> IamAuth:
    """Return an auth whose token is the same for any port of the server."""
    source = Source(*(credentials or [KEYS]))
    return IamAuth(
        region="eu-west-1", host=NAME, port=5432, credentials=source, clock=FakeClock(wall=WALL)
    )


def token() -> str:
    password = iam().login(Login(NAME, 5432, "app")).password
    assert password is not None
    return password


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """Servers whose password is the token."""
    yield from both_servers(token())


@pytest.fixture
def server(family: str, servers: dict[str, Server]) -> Server:
    return servers[family]


def test_the_token_is_a_kilobyte() -> None:
    assert 1_000 <= len(token()) <= 1_400


async def test_a_token_logs_in_over_verified_tls(
    opened: Opened, server: Server, dns_server: DnsServer
) -> None:
    servers = point(dns_server, server.address)
    url, tls = without_password(server, NAME), Tls(ca=server.certificate)
    database = opened(url, servers=servers, auth=iam(), tls=tls)
    assert await database.scalar("SELECT 1") == 1


async def test_a_refused_token_is_replaced_once(
    opened: Opened, server: Server, dns_server: DnsServer
) -> None:
    servers = point(dns_server, server.address)
    url, tls = without_password(server, NAME), Tls(ca=server.certificate)
    auth = iam(STALE, KEYS)
    assert await opened(url, servers=servers, auth=auth, tls=tls).scalar("SELECT 1") == 1
    assert auth._credentials.forgotten == 1  # type: ignore[attr-defined]
    refused = iam(STALE, STALE, KEYS)
    with pytest.raises(OperationalError, match=r"(?i)password authentication failed|denied"):
        await opened(url, servers=servers, auth=refused, tls=tls).scalar("SELECT 1")
    assert refused._credentials.forgotten == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("host", [None, NAME], ids=["address", "name"])
async def test_without_tls_keywords_the_server_must_prove_itself_on_loopback_too(
    opened: Opened, server: Server, dns_server: DnsServer, host: str | None
) -> None:
    """The system does not know the authority of the server's certificate."""
    servers = point(dns_server, server.address)
    database = opened(without_password(server, host), servers=servers, auth=iam(), retry=FAST)
    with pytest.raises(OperationalError, match=r"(?i)certificate"):
        await database.scalar("SELECT 1")


async def test_a_token_does_not_go_to_another_name(
    opened: Opened, server: Server, dns_server: DnsServer
) -> None:
    servers = point(dns_server, server.address, "other.shop.internal")
    url, tls = without_password(server, "other.shop.internal"), Tls(ca=server.certificate)
    database = opened(url, servers=servers, auth=iam(), tls=tls, retry=FAST)
    with pytest.raises(OperationalError, match=r"(?i)certificate"):
        await database.scalar("SELECT 1")


# what is refused at creation

PG = "postgresql+psycopg://app@db.shop.internal/shop"
PYMYSQL = "mysql+pymysql://app@db.shop.internal/shop"
AIOMYSQL = "mysql+aiomysql://app@db.shop.internal/shop"
DRIVERS: list[tuple[Callable[..., Any], str]] = [
    (create_engine, PG),
    (create_async_engine, PG),
    (create_engine, PYMYSQL),
    (create_async_engine, AIOMYSQL),
]


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    "options",
    [
        {"tls": "off"},
        {"tls": "verify-ca"},
        {"tls": Tls(mode="verify-ca")},
        {"tls": Tls(mode="off"), "auth": "iam"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("create", "url"), DRIVERS)
def test_iam_without_verified_tls_is_refused(
    create: Callable[..., Any], url: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="needs verified TLS"):
        create(url, **{"auth": IamAuth(), **options})


MYSQL_SSL: list[dict[str, Any]] = [
    {"ssl": {"cert": "client.pem", "key": "client.key"}},
    {"ssl": {"ca": "ca.pem", "check_hostname": False}},
    {"ssl": {"ca": "ca.pem", "check_hostname": 0}},
    {"ssl": {"ca": "ca.pem", "check_hostname": None}},
    {"ssl": unverified()},
    {"ssl_disabled": True},
    {"ssl": ssl.create_default_context(), "ssl_disabled": True},
    {"ssl": ssl.create_default_context(), "ssl_ca": "ca.pem"},
    {"ssl_ca": "ca.pem", "ssl_verify_identity": True, "ssl_disabled": True},
    {"ssl_ca": "ca.pem"},
    {"ssl_ca": "ca.pem", "ssl_verify_cert": True},
    {"ssl_verify_identity": True},
    {"ssl_verify_identity": True, "ssl_verify_cert": True},
]


@pytest.mark.parametrize("arguments", MYSQL_SSL, ids=lambda given: ",".join(given))
def test_pymysqls_own_keywords_that_do_not_verify_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs verified TLS"):
        create_engine(PYMYSQL, auth=IamAuth(), connect_args=arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ssl": {"ca": "ca.pem"}},
        {"ssl": {"ca": "ca.pem", "check_hostname": True}},
        {"ssl": {"capath": "/etc/ssl/certs"}},
        {"ssl": ssl.create_default_context()},
        {"ssl_ca": "ca.pem", "ssl_verify_identity": True},
    ],
    ids=lambda given: ",".join(given),
)
def test_pymysqls_own_keywords_that_verify_are_taken(arguments: dict[str, Any]) -> None:
    create_engine(PYMYSQL, auth=IamAuth(), connect_args=arguments).dispose()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
@pytest.mark.parametrize("create", [create_engine, create_async_engine])
def test_an_sslmode_that_does_not_verify_is_refused(create: Callable[..., Any], mode: str) -> None:
    for url, arguments in ((f"{PG}?sslmode={mode}", {}), (PG, {"sslmode": mode})):
        with pytest.raises(ConfigError, match="needs verified TLS"):
            create(url, auth=IamAuth(), connect_args=arguments)
    create_engine(f"{PG}?sslmode=verify-full", auth=IamAuth()).dispose()


def test_the_mysql_url_without_an_authority_is_refused() -> None:
    for query in ("ssl_cert=client.pem", "ssl_ca=ca.pem&ssl_check_hostname=false"):
        with pytest.raises(ConfigError, match="needs verified TLS"):
            create_engine(f"{PYMYSQL}?{query}", auth=IamAuth())


# a MySQL server at the level of its protocol


@pytest.fixture(scope="module")
def pair() -> Iterator[Certificate]:
    """A certificate for the name and 127.0.0.1, and its key."""
    run = RunDirectory()
    made = make_certificate(True, ["127.0.0.1"], run)
    assert made is not None
    yield made
    run.close()


@pytest.fixture(scope="module")
def context(pair: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def log_in(driver: str, port: int, ca: Path | None, **options: Any) -> None:
    """Connect and close, by datakit's driver."""
    kind = make_url(f"mysql+{driver}://").get_dialect()
    dialect = kind(dbapi=kind.import_dbapi())  # type: ignore[call-arg]
    module = driver_for("mysql", driver)
    params = {
        "host": NAME, "port": port, "user": "app", "password": token(),
        **module.tls_keywords(Tls(ca=ca) if ca else Tls(mode="off")), **options,
    }  # fmt: skip
    endpoint = endpoint_for(NAME, "generic")
    connection = await greenlet_spawn(module.connect, dialect, params, "127.0.0.1", 5.0, endpoint)
    await greenlet_spawn(connection.close)


both_drivers = pytest.mark.parametrize("driver", ["pymysql", "aiomysql"])


@both_drivers
@pytest.mark.parametrize("greeting", ["mysql_native_password", "caching_sha2_password"])
async def test_a_clear_text_token_arrives_whole_and_only_within_tls(
    driver: str, greeting: str, pair: Certificate, context: ssl.SSLContext
) -> None:
    with MysqlEndpoint(token(), context=context, greeting=greeting) as server:
        await log_in(driver, server.port, pair.certificate)
        assert server.passwords == [token()]
        assert token().encode() in server.secret
        assert token()[:40].encode() not in server.clear


async def test_a_clear_text_token_of_the_first_packet_arrives_within_tls(
    pair: Certificate, context: ssl.SSLContext
) -> None:
    """aiomysql sends it at once when told to, or when the greeting asks for it."""
    for plugin in ({"auth_plugin": "mysql_clear_password"}, {}):
        greeting = "mysql_native_password" if plugin else "mysql_clear_password"
        with MysqlEndpoint(token(), context=context, greeting=greeting, switch=None) as server:
            await log_in("aiomysql", server.port, pair.certificate, **plugin)
            assert server.passwords == [token()]
            assert token()[:40].encode() not in server.clear


@both_drivers
@pytest.mark.parametrize("switch", ["mysql_clear_password", "dialog"])
async def test_no_clear_text_password_goes_over_a_link_without_tls(
    driver: str, switch: str
) -> None:
    with (
        MysqlEndpoint(token(), switch=switch) as server,
        pytest.raises(err.OperationalError, match="clear text"),
    ):
        await log_in(driver, server.port, None)
    assert b"app\0" in server.clear
    assert b"Action" not in server.clear


@pytest.mark.parametrize(
    ("greeting", "options"),
    [
        ("mysql_native_password", {"auth_plugin": "mysql_clear_password"}),
        ("mysql_clear_password", {}),
    ],
    ids=["auth_plugin", "greeting"],
)
async def test_aiomysql_sends_no_clear_text_password_at_once(
    greeting: str, options: dict[str, Any]
) -> None:
    with (
        MysqlEndpoint(token(), greeting=greeting, switch=None) as server,
        pytest.raises(err.OperationalError, match="clear text"),
    ):
        await log_in("aiomysql", server.port, None, **options)
    assert server.clear == b""


async def test_pymysql_answers_a_greeting_for_clear_text_with_no_password() -> None:
    with (
        MysqlEndpoint(token(), greeting="mysql_clear_password", switch=None) as server,
        pytest.raises(err.OperationalError),
    ):
        await log_in("pymysql", server.port, None)
    assert b"Action" not in server.clear


@both_drivers
async def test_a_server_that_drops_tls_gets_nothing(driver: str, pair: Certificate) -> None:
    with (
        MysqlEndpoint(token()) as server,
        pytest.raises(err.OperationalError, match=r"(?i)tls is required|ssl is required"),
    ):
        await log_in(driver, server.port, pair.certificate)
    assert server.clear == b""


@both_drivers
async def test_a_server_with_another_certificate_gets_nothing(
    driver: str, context: ssl.SSLContext, servers: dict[str, Server]
) -> None:
    other = servers["mariadb"].certificate
    with (
        MysqlEndpoint(token(), context=context) as server,
        pytest.raises(err.OperationalError, match="certificate verify failed"),
    ):
        await log_in(driver, server.port, other)
    assert len(server.clear) == 36  # the request for TLS alone
    assert server.secret == b""


# a proxy that is throttled

THROTTLED = ("28000", "IAM authentication failed because of too many competing requests")
REFUSED = ("28P01", 'password authentication failed for user "app"')


async def test_a_throttled_proxy_is_not_given_another_token(
    opened: Opened, dns_server: DnsServer, pair: Certificate, context: ssl.SSLContext
) -> None:
    clock = FakeClock(wall=WALL)
    source = Source(KEYS)

    class Ticking(IamAuth):
        def login(self, login: Login) -> Login:
            clock.advance(1.0)  # a second token would be another
            return super().login(login)

    auth = Ticking(region="eu-west-1", credentials=source, clock=clock)
    overload = Rule(attempts=4, base=0.01)
    with PostgresEndpoint(context, [THROTTLED, THROTTLED, REFUSED]) as proxy:
        database = opened(
            f"postgresql+psycopg://app@{NAME}:{proxy.port}/shop",
            servers=point(dns_server, "127.0.0.1"),
            auth=auth,
            tls=Tls(ca=pair.certificate),
            retry=RetryPolicy(deadline=20, rules={Verdict.OVERLOAD: overload}),
        )
        with pytest.raises(OperationalError, match="password authentication failed"):
            await database.scalar("SELECT 1")
        assert len(proxy.passwords) == 4  # throttled twice, refused twice
        assert len(set(proxy.passwords[:3])) == 1
        assert proxy.passwords[3] != proxy.passwords[2]
        assert source.forgotten == 2
