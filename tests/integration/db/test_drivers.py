"""PostgreSQL and MariaDB by psycopg, PyMySQL and aiomysql: names, TLS, passwords and deadlines."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import RetryPolicy, Tls, deadline
from datakit.db.endpoint import Endpoint
from datakit.errors import DeadlineExceededError
from datakit.testing import DnsServer, MariadbServer, PostgresCluster, PostgresNode

from .conftest import Database, Server

NAME = "db.shop.internal"
PASSWORD = "pass word/with:odd@signs"
Opened = Callable[..., Database]
SLEEP = {PostgresNode: "SELECT pg_sleep(30)", MariadbServer: "SELECT SLEEP(30)"}
WHO = {PostgresNode: "SELECT pg_backend_pid()", MariadbServer: "SELECT CONNECTION_ID()"}
FAMILIES = ["postgresql", "mariadb"]


@pytest.fixture(scope="module")
def secure_servers() -> Iterator[dict[str, Server]]:
    """One of each family with TLS and a password."""
    with (
        PostgresCluster(standbys=0, tls=True, password=PASSWORD) as cluster,
        MariadbServer(tls=True, password=PASSWORD) as mariadb,
    ):
        yield {"postgresql": cluster.primary, "mariadb": mariadb}


@pytest.fixture(params=FAMILIES)
def secure(request: pytest.FixtureRequest, secure_servers: dict[str, Server]) -> Server:
    return secure_servers[str(request.param)]


def named(server: Server, name: str = NAME) -> str:
    """Return the server's URL by name, without the password."""
    host = f"@{server.address}:"
    url = server.url()
    user = url.partition("://")[2].partition(":")[0].partition("@")[0]
    return f"{url.partition('://')[0]}://{user}@{name}:{url.rpartition(host)[2]}"


def certificate(server: Server) -> Path:
    assert server.certificate is not None
    return server.certificate


@pytest.fixture
def names(dns_server: DnsServer) -> list[str]:
    """A DNS server that sends the name, and one the certificates are not for, to loopback."""
    for name in (NAME, "other.shop.internal"):
        dns_server.set(name, "A", ["127.0.0.1"])
    return [dns_server.endpoint]


@pytest.fixture
def at_server(secure: Server, dns_server: DnsServer, names: list[str]) -> list[str]:
    for name in (NAME, "other.shop.internal"):
        dns_server.set(name, "A", [secure.address])
    return names


async def test_the_server_proves_by_name_who_it_is(
    opened: Opened, secure: Server, at_server: list[str]
) -> None:
    tls = Tls(ca=certificate(secure))
    database = opened(named(secure), servers=at_server, tls=tls, auth=lambda: PASSWORD)
    assert await database.scalar("SELECT 1") == 1
    encrypted = {
        PostgresNode: "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        MariadbServer: "SELECT variable_value <> '' FROM information_schema.session_status"
        " WHERE variable_name = 'Ssl_cipher'",
    }
    assert await database.scalar(encrypted[type(secure)])


@pytest.mark.parametrize(
    ("name", "trusts"), [("other.shop.internal", True), (NAME, False)], ids=["name", "authority"]
)
async def test_a_server_that_cannot_prove_it_is_refused_at_once(
    opened: Opened, secure: Server, at_server: list[str], name: str, trusts: bool
) -> None:
    tls = Tls(ca=certificate(secure)) if trusts else Tls()
    database = opened(named(secure, name), servers=at_server, tls=tls, auth=lambda: PASSWORD)
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"(?i)certificate"):
        await database.scalar("SELECT 1")
    assert time.monotonic() - began < 20  # not tried until the deadline of 30 s
    trusting = opened(
        named(secure, name),
        servers=at_server,
        tls=Tls(ca=certificate(secure), mode="verify-ca"),
        auth=lambda: PASSWORD,
    )
    assert await trusting.scalar("SELECT 1") == 1


async def test_tls_that_the_server_does_not_have_is_told(
    opened: Opened, server: Server, secure_servers: dict[str, Server]
) -> None:
    ca = certificate(secure_servers["mariadb"])
    database = opened(server.url(), tls=Tls(ca=ca), retry=RetryPolicy(deadline=0.5))
    with pytest.raises(OperationalError, match=r"(?i)ssl|tls"):
        await database.scalar("SELECT 1")
    assert await opened(server.url(), tls="off").scalar("SELECT 1") == 1


async def test_a_password_that_was_refused_is_asked_for_again_once(
    opened: Opened, secure: Server, at_server: list[str]
) -> None:
    passwords = iter(["old", PASSWORD, "never asked for"])
    tls = Tls(ca=certificate(secure))
    database = opened(named(secure), servers=at_server, tls=tls, auth=lambda: next(passwords))
    assert await database.scalar("SELECT 1") == 1
    refused = iter(["old", "older", "never asked for"])
    wrong = opened(named(secure), servers=at_server, tls=tls, auth=lambda: next(refused))
    with pytest.raises(OperationalError, match=r"(?i)password authentication failed|Access denied"):
        await wrong.scalar("SELECT 1")
    assert next(passwords) == next(refused) == "never asked for"


async def test_a_dead_address_among_several_costs_no_attempt(
    opened: Opened, server: Server, dns_server: DnsServer, kind: str
) -> None:
    dns_server.set(NAME, "A", ["127.0.0.201", "127.0.0.202", server.address, "127.0.0.203"])
    database = opened(
        named(server), servers=[dns_server.endpoint], retry=RetryPolicy(attempts=1, deadline=5)
    )
    assert await asyncio.gather(*(database.scalar("SELECT 1") for _ in range(4))) == [1] * 4


async def test_a_name_that_leads_to_dead_addresses_is_asked_again(
    opened: Opened, server: Server, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["127.0.0.201", "127.0.0.202", "127.0.0.203"], ttl=300)
    database = opened(named(server), servers=[dns_server.endpoint])
    waiting = asyncio.create_task(database.scalar("SELECT 1"))
    await asyncio.sleep(0.4)
    assert not waiting.done()
    dns_server.set(NAME, "A", [server.address], ttl=300)
    assert await waiting == 1
    hopeless = opened(named(server, "nobody.internal"), servers=["127.0.0.250"])
    with deadline(0.5), pytest.raises(DeadlineExceededError, match="connect"):
        await hopeless.scalar("SELECT 1")


async def test_a_statement_ends_with_the_deadline(opened: Opened, server: Server) -> None:
    database = opened(server.url(), pool_size=1, max_overflow=0)
    before = await database.scalar(WHO[type(server)])
    began = time.monotonic()
    with deadline(0.5), pytest.raises(DeadlineExceededError, match="the database"):
        await database.scalar(SLEEP[type(server)])
    assert 0.4 < time.monotonic() - began < 10  # it sleeps for 30 s
    assert database.checked_out == 0
    assert await database.scalar(WHO[type(server)]) != before


async def test_a_stopped_server_holds_nobody_beyond_the_deadline(
    opened: Opened, server: Server
) -> None:
    database = opened(server.url(), pool_size=2)
    await database.scalar("SELECT 1")
    server.stop_process()
    try:
        began = time.monotonic()
        with deadline(0.5), pytest.raises(DeadlineExceededError):
            await database.scalar("SELECT 1")
        with deadline(0.5), pytest.raises((DBAPIError, DeadlineExceededError)):
            await database.scalar("SELECT 1")  # on a new connection, which stalls in the handshake
        assert time.monotonic() - began < 10
    finally:
        server.resume_process()
    assert await database.scalar("SELECT 1") == 1


async def test_a_pooled_connection_that_died_while_idle_is_replaced(
    opened: Opened, server: Server
) -> None:
    endpoint = Endpoint(kind="generic", probe_after=0.2)
    database = opened(server.url(), pool_size=1, endpoint=endpoint)
    await database.scalar("SELECT 1")
    server.kill()
    await asyncio.to_thread(server.restart)
    await asyncio.sleep(0.3)
    assert await database.scalar("SELECT 1") == 1


async def test_the_users_own_listeners_are_called_and_may_connect(
    opened: Opened, server: Server
) -> None:
    url = server.url().replace("//app@", "//nobody@")
    database = opened(url, pool_size=1)
    bind = database.bind
    plain = bind.sync_engine if isinstance(bind, AsyncEngine) else bind
    called: list[str] = []

    @event.listens_for(plain, "do_connect")
    def name_user(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> None:
        called.append(cparams["user"])
        cparams["user"] = "app"

    assert await database.scalar("SELECT 1") == 1
    assert called == ["nobody"]


async def test_a_cancelled_statement_ends_soon_on_a_stopped_server(server: Server) -> None:
    """psycopg alone would wait for 10 s for the cancellation to take effect."""
    database = Database("async", server.url(), pool_size=1)
    await database.scalar("SELECT 1")
    server.stop_process()
    try:
        began = time.monotonic()
        with deadline(30.0), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await database.scalar("SELECT 1")
        assert time.monotonic() - began < 5
    finally:
        server.resume_process()
    assert await database.scalar("SELECT 1") == 1
    assert database.checked_out == 0
    await database.close()


class Dripping:
    """Relays to a server, and its answers a byte at a time."""

    def __init__(self, server: Server) -> None:
        self.slow = False
        self._server = server

    async def __aenter__(self) -> "Dripping":
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, out = await asyncio.open_connection(self._server.address, self._server.port)
        try:
            await asyncio.gather(self._relay(reader, out, False), self._relay(back, writer, True))
        except OSError:
            pass
        finally:
            out.close()
            writer.close()

    async def _relay(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, drips: bool
    ) -> None:
        while data := await source.read(65_536):
            step = 1 if drips and self.slow else len(data)
            for start in range(0, len(data), step):
                to.write(data[start : start + step])
                await to.drain()
                if step == 1:
                    await asyncio.sleep(0.02)
        to.close()


async def test_an_answer_that_drips_in_ends_with_the_deadline(
    opened: Opened, server: Server
) -> None:
    async with Dripping(server) as relay:
        url = server.url().replace(f"{server.address}:{server.port}", f"127.0.0.1:{relay.port}")
        database = opened(url, pool_size=1)
        await database.scalar("SELECT 1")
        relay.slow = True
        began = time.monotonic()
        with deadline(0.5), pytest.raises(DeadlineExceededError):
            await database.scalar("SELECT repeat('x', 1000)")  # 20 s
        assert time.monotonic() - began < 5
        relay.slow = False
        assert await database.scalar("SELECT 1") == 1
        await database.close()
