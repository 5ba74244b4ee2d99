"""Connecting by name: through the resolver, until the deadline, to where the name points now."""

import asyncio
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from datakit import RetryPolicy, deadline, events
from datakit.errors import DeadlineExceededError
from datakit.testing import DnsServer, PostgresCluster, PostgresNode

from .conftest import Database

NAME = "db.shop.internal"
Opened = Callable[..., Database]


@pytest.fixture(scope="module")
def pair() -> Iterator[PostgresCluster]:
    """A primary and a standby, which tests leave alive and in their roles."""
    with PostgresCluster(binaries="wheel") as cluster:
        yield cluster


def named(node: PostgresNode, name: str = NAME) -> str:
    return node.url().replace(node.address, name)


async def test_the_host_is_found_through_the_resolver(
    opened: Opened, postgres: PostgresNode, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", [postgres.address], ttl=60)
    database = opened(named(postgres), servers=[dns_server.endpoint])
    assert await database.scalar("SELECT host(inet_server_addr())") == postgres.address
    await asyncio.gather(*(database.scalar("SELECT 1") for _ in range(5)))
    assert dns_server.queries_for(NAME, "A") == 1


async def test_a_cname_leads_to_the_host(
    opened: Opened, postgres: PostgresNode, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "CNAME", ["node-1.internal."], ttl=60)
    dns_server.set("node-1.internal", "A", [postgres.address], ttl=60)
    database = opened(named(postgres), servers=[dns_server.endpoint])
    assert await database.scalar("SELECT 1") == 1


async def test_the_pool_moves_when_the_ttl_and_the_grace_have_ended_and_not_before(
    opened: Opened,
    pair: PostgresCluster,
    dns_server: DnsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datakit.dns.departures.GRACE", 0.5)
    where = "SELECT host(inet_server_addr())"
    old, new = pair.primary.address, pair.standbys[0].address
    dns_server.set(NAME, "A", [old], ttl=1)
    database = opened(named(pair.primary), servers=[dns_server.endpoint], pool_size=3)
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    began = time.monotonic()
    assert set(await asyncio.gather(*(database.scalar(where) for _ in range(3)))) == {old}
    dns_server.set(NAME, "A", [new], ttl=60)
    addresses: list[str] = []
    moved_after = 0.0
    while not addresses or addresses[-1] == old:
        addresses.append(await database.scalar(where))
        moved_after = time.monotonic() - began
        assert moved_after < 10
    unsubscribe()
    assert set(addresses[:-1]) == {old}
    assert moved_after >= 1.5
    assert set(await asyncio.gather(*(database.scalar(where) for _ in range(3)))) == {new}
    assert any(isinstance(event, events.ConnectionMoved) for event in seen)


async def test_a_silent_dns_server_leaves_the_pool_where_it_is(
    opened: Opened, postgres: PostgresNode, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", [postgres.address], ttl=1)
    database = opened(named(postgres), servers=[dns_server.endpoint], pool_size=1)
    pid = await database.scalar("SELECT pg_backend_pid()")
    dns_server.fail("servfail")
    await asyncio.sleep(1.1)
    assert await database.scalar("SELECT pg_backend_pid()") == pid


async def test_a_server_that_comes_up_late_is_waited_for(
    opened: Opened, pair: PostgresCluster
) -> None:
    node = pair.standbys[0]
    node.kill()
    database = opened(node.url(), retry=RetryPolicy(base=0.02, cap=0.1, deadline=60))
    waiting = asyncio.create_task(database.scalar("SELECT 1"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await asyncio.to_thread(node.restart)
    assert await waiting == 1


async def test_giving_up_raises_the_drivers_error_with_what_was_tried(
    opened: Opened, postgres: PostgresNode
) -> None:
    url = postgres.url().replace(postgres.address, "127.0.0.99")
    database = opened(url, retry=RetryPolicy(base=0.02, cap=0.1, deadline=0.5))
    with pytest.raises(OperationalError, match="Connection refused") as caught:
        await database.scalar("SELECT 1")
    assert isinstance(caught.value.orig, psycopg.OperationalError)
    assert "gave up after" in caught.value.orig.__notes__[0]
    assert database.checked_out == 0


async def test_the_enclosing_deadline_ends_the_attempts(
    opened: Opened, postgres: PostgresNode
) -> None:
    database = opened(postgres.url().replace(postgres.address, "127.0.0.99"))
    began = time.monotonic()
    with deadline(0.5), pytest.raises(DeadlineExceededError, match="Connection refused"):
        await database.scalar("SELECT 1")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("/app", "/nowhere", 'database "nowhere" does not exist'),
        ("app@", "nobody@", 'role "nobody" does not exist'),
    ],
)
async def test_a_mistake_in_the_url_is_told_at_once(
    opened: Opened, postgres: PostgresNode, right: str, wrong: str, message: str
) -> None:
    before, _, after = postgres.url().rpartition(right)
    database = opened(f"{before}{wrong}{after}")
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    with pytest.raises(OperationalError, match=message):
        await database.scalar("SELECT 1")
    unsubscribe()
    assert not any(isinstance(event, events.RetryScheduled) for event in seen)


async def test_a_misspelt_host_is_told_at_once(
    opened: Opened, postgres: PostgresNode, dns_server: DnsServer
) -> None:
    database = opened(named(postgres, "db.shop.intrenal"), servers=[dns_server.endpoint])
    with pytest.raises(OperationalError, match=r"db\.shop\.intrenal does not exist"):
        await database.scalar("SELECT 1")


async def test_a_demoted_server_is_left(
    opened: Opened, pair: PostgresCluster, dns_server: DnsServer, kind: str
) -> None:
    """The name points to a standby at first: writes wait for it to point to the writer."""
    dns_server.set(NAME, "A", [pair.standbys[0].address], ttl=60)
    database = opened(named(pair.primary), servers=[dns_server.endpoint])
    assert await database.scalar("SELECT pg_is_in_recovery()")
    writing = asyncio.create_task(
        database.transact(lambda conn: conn.execute(text(f"CREATE TABLE made_{kind} (id int)")))
    )
    await asyncio.sleep(0.5)
    assert not writing.done()
    dns_server.set(NAME, "A", [pair.primary.address], ttl=60)
    await writing
    assert not await database.scalar("SELECT pg_is_in_recovery()")


async def test_the_wait_for_a_free_connection_ends_with_the_deadline(
    opened: Opened, postgres: PostgresNode
) -> None:
    database = opened(postgres.url(), pool_size=1, max_overflow=0, pool_timeout=60)
    lock = "SELECT pg_advisory_lock(7)"
    with psycopg.connect(postgres.url("")) as direct:
        direct.execute(lock)
        holding = asyncio.create_task(database.scalar(lock))
        while not database.checked_out:  # noqa: ASYNC110 - the pool has no event
            await asyncio.sleep(0.01)
        with deadline(0.3), pytest.raises(DeadlineExceededError, match="free connection"):
            await database.scalar("SELECT 1")
        assert not holding.done()
    await holding
    with deadline(0.3):  # a pool made anew has the whole timeout again
        assert database.bind.pool.recreate()._pool_timeout == 60  # type: ignore[attr-defined]
