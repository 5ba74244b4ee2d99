"""Transactions on PostgreSQL and MariaDB alike: lost links, demoted servers, ends of deadlines."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text

from datakit import deadline
from datakit.errors import CommitUnknownError, DeadlineExceededError
from datakit.testing import FaultProxy, MariadbServer
from datakit.testing._wait import until

from .conftest import Database, Server

INSERT = text("INSERT INTO ledger VALUES (:id)")


@pytest.fixture
async def ledger(opened: Callable[..., Database], server: Server) -> AsyncIterator[Database]:
    """A database with an empty table `ledger` (id)."""
    database = opened(server.url(), pool_size=2)
    await database.transact(
        lambda conn: conn.execute(text("CREATE TABLE ledger (id int PRIMARY KEY)"))
    )
    yield database
    make_read_only(server, "off")
    await database.transact(lambda conn: conn.execute(text("DROP TABLE ledger")))


def make_read_only(server: Server, value: str) -> None:
    if isinstance(server, MariadbServer):
        server.query(f"SET GLOBAL read_only = {value}")
        return
    url = server.url("")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(b"ALTER SYSTEM SET default_transaction_read_only = " + value.encode())
        conn.execute("SELECT pg_reload_conf()")
    until(lambda: value_of(url, "default_transaction_read_only") == value, f"read only: {value}")


def value_of(url: str, setting: str) -> str:
    """Return what a new connection has."""
    with psycopg.connect(url) as conn:
        row = conn.execute(f"SHOW {setting}".encode()).fetchone()
    assert row is not None
    return str(row[0])


async def count(database: Database) -> int:
    return int(await database.scalar("SELECT count(*) FROM ledger"))


class Body:
    """Inserts a row, then does `once` in its first run alone."""

    def __init__(self, once: Callable[[Connection], Any]) -> None:
        self.once = once
        self.runs = 0

    def __call__(self, conn: Connection) -> None:
        self.runs += 1
        conn.execute(INSERT, {"id": self.runs})
        if self.runs == 1:
            self.once(conn)


async def test_a_lost_link_in_the_body_is_run_again(ledger: Database, server: Server) -> None:
    def kill_own(conn: Connection) -> None:
        if isinstance(server, MariadbServer):
            server.query(f"KILL CONNECTION {conn.scalar(text('SELECT CONNECTION_ID()'))}")
        else:
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        conn.execute(text("SELECT 1"))

    body = Body(kill_own)
    await ledger.transact(body)
    assert body.runs == 2
    assert await count(ledger) == 1


async def test_a_killed_server_that_comes_back_is_waited_for(
    ledger: Database, server: Server
) -> None:
    def kill(conn: Connection) -> None:
        server.kill()
        server.restart()
        conn.execute(text("SELECT 1"))

    body = Body(kill)
    await ledger.transact(body)
    assert body.runs == 2
    assert await count(ledger) == 1


async def test_a_server_that_turned_read_only_is_left_until_it_takes_writes(
    ledger: Database, server: Server
) -> None:
    make_read_only(server, "on")
    await asyncio.sleep(0.2)
    writing = asyncio.create_task(ledger.transact(lambda conn: conn.execute(INSERT, {"id": 1})))
    await asyncio.sleep(0.6)
    assert not writing.done()
    make_read_only(server, "off")
    await writing
    assert await count(ledger) == 1


async def test_a_writers_endpoint_that_leads_to_a_reader_is_asked_until_it_leads_to_a_writer(
    opened: Callable[..., Database], server: Server
) -> None:
    make_read_only(server, "on")
    await asyncio.sleep(0.2)
    database = opened(server.url(), endpoint="cluster")
    reading = asyncio.create_task(database.scalar("SELECT 1"))
    await asyncio.sleep(0.6)
    assert not reading.done()
    assert await opened(server.url(), endpoint="reader").scalar("SELECT 1") == 1
    make_read_only(server, "off")
    assert await reading == 1


async def test_a_deadlock_is_run_again(ledger: Database, server: Server) -> None:
    """Two transactions take two rows in opposite orders."""
    await ledger.transact(lambda conn: conn.execute(INSERT, [{"id": 1}, {"id": 2}]))
    barrier = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()
    runs = 0

    def crossing(first: int, second: int) -> Callable[[Connection], None]:
        met = False

        def body(conn: Connection) -> None:
            nonlocal met, runs
            runs += 1
            update = text("UPDATE ledger SET id = id WHERE id = :id")
            conn.execute(update, {"id": first})
            if not met:
                met = True
                meet(conn)
            conn.execute(update, {"id": second})

        return body

    def meet(conn: Connection) -> None:
        if ledger.is_async:
            from sqlalchemy.util import await_only

            await_only(barrier.wait())
        else:
            asyncio.run_coroutine_threadsafe(barrier.wait(), loop).result(10)

    await asyncio.gather(ledger.transact(crossing(1, 2)), ledger.transact(crossing(2, 1)))
    assert runs == 3


async def test_a_deadline_that_is_over_before_commit_rolls_back(
    ledger: Database, server: Server
) -> None:
    def late(conn: Connection) -> None:
        conn.execute(INSERT, {"id": 1})
        while deadline.remaining():
            pass

    with deadline(0.3), pytest.raises(DeadlineExceededError, match="rolled back"):
        await ledger.transact(late)
    assert await count(ledger) == 0


async def test_a_commit_that_the_deadline_ends_is_unknown(ledger: Database, server: Server) -> None:
    def stop(conn: Connection) -> None:
        conn.execute(INSERT, {"id": 1})
        server.stop_process()

    try:
        with deadline(1.0), pytest.raises(CommitUnknownError):
            await ledger.transact(stop, idempotent=True)
    finally:
        server.resume_process()
    assert await count(ledger) in (0, 1)
    assert ledger.checked_out == 0


async def test_a_link_lost_while_the_first_connection_is_made_ready_is_run_again(
    opened: Callable[..., Database], server: Server
) -> None:
    """SQLAlchemy asks for its dialect's settings then, on a connection of another kind."""
    with FaultProxy(server.address, server.port) as proxy:
        url = server.url().replace(f"{server.address}:{server.port}", f"{proxy.host}:{proxy.port}")
        asked = b"sql_mode" if isinstance(server, MariadbServer) else b"pg_catalog.version()"
        proxy.drop_reply(asked, times=1)
        database = opened(url)
        await database.transact(lambda conn: conn.execute(text("SELECT 1")))
        assert proxy.connections >= 2
    assert database.bind.dialect.server_version_info is not None
