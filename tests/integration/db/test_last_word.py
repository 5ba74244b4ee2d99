"""When the deadline is over nothing but a ROLLBACK is sent, and a healthy connection is kept."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import deadline
from datakit.errors import DeadlineExceededError
from datakit.testing import MariadbServer, PostgresNode

from .conftest import Database

Opened = Callable[..., Database]
Server = PostgresNode | MariadbServer
WHO = {PostgresNode: "SELECT pg_backend_pid()", MariadbServer: "SELECT CONNECTION_ID()"}


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariadbServer]:
    with MariadbServer() as server:
        yield server


@pytest.fixture(params=["postgresql", "mariadb"])
def server(
    request: pytest.FixtureRequest, postgres: PostgresNode, mariadb: MariadbServer
) -> Server:
    return postgres if request.param == "postgresql" else mariadb


async def run(database: Database, body: Callable[[Connection], Any], **options: Any) -> Any:
    """Return what `body` returns on a connection, which is given back inside the `deadline`."""
    bind = database.bind
    if isinstance(bind, AsyncEngine):
        async with bind.connect() as conn:
            await conn.execution_options(**options)
            return await conn.run_sync(body)

    def work(engine: Engine) -> Any:
        with engine.connect() as conn:
            conn.execution_options(**options)
            return body(conn)

    return await asyncio.to_thread(work, bind)


def wait_until_over() -> None:
    while left := deadline.remaining():
        time.sleep(left)


async def test_no_statement_begins_when_the_deadline_is_over(
    opened: Opened, server: Server
) -> None:
    database = opened(server.url(), pool_size=1)
    await run(database, lambda conn: conn.execute(text("SELECT 1")))

    def body(conn: Connection) -> None:
        conn.execute(text("SELECT 1"))
        wait_until_over()
        conn.execute(text("SELECT 1"))

    with deadline(0.3), pytest.raises(DeadlineExceededError):
        await run(database, body)
    assert database.checked_out == 0
    assert await database.scalar("SELECT 1") == 1


async def test_no_commit_begins_when_the_deadline_is_over(opened: Opened, server: Server) -> None:
    database = opened(server.url(), pool_size=1)
    await database.transact(lambda conn: conn.execute(text("CREATE TABLE late (id int)")))

    def body(conn: Connection) -> None:
        conn.execute(text("INSERT INTO late VALUES (1)"))
        wait_until_over()
        conn.commit()

    with deadline(0.3), pytest.raises(DeadlineExceededError):
        await run(database, body)
    assert await database.scalar("SELECT count(*) FROM late") == 0
    await database.transact(lambda conn: conn.execute(text("DROP TABLE late")))


async def test_a_healthy_connection_is_rolled_back_and_kept(opened: Opened, server: Server) -> None:
    database = opened(server.url(), pool_size=1, max_overflow=0)
    who = await database.scalar(WHO[type(server)])

    def body(conn: Connection) -> None:
        conn.execute(text("SELECT 1"))
        wait_until_over()

    with deadline(0.3):
        await run(database, body)
    assert database.checked_out == 0
    assert await database.scalar(WHO[type(server)]) == who


async def test_an_isolation_level_is_put_back_when_the_deadline_is_over(
    opened: Opened, server: Server
) -> None:
    database = opened(server.url(), pool_size=1, max_overflow=0)
    who = await database.scalar(WHO[type(server)])
    level = {
        PostgresNode: "SHOW transaction_isolation",
        MariadbServer: "SELECT CONCAT(@@autocommit, @@tx_isolation)",
    }[type(server)]
    before = await database.scalar(level)

    def body(conn: Connection) -> None:
        conn.execute(text("SELECT 1"))
        wait_until_over()

    for other in ("SERIALIZABLE", "AUTOCOMMIT"):
        with deadline(0.3):
            await run(database, body, isolation_level=other)
        assert database.checked_out == 0
        assert await database.scalar(level) == before
        assert await database.scalar(WHO[type(server)]) == who


async def test_a_stopped_server_holds_a_rollback_no_longer_than_its_last_word(
    opened: Opened, server: Server
) -> None:
    database = opened(server.url(), pool_size=1, max_overflow=0)
    who = await database.scalar(WHO[type(server)])

    def body(conn: Connection) -> None:
        conn.execute(text("SELECT 1"))
        server.stop_process()
        wait_until_over()

    try:
        with deadline(0.3), pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(run(database, body), 10)
    finally:
        server.resume_process()
    assert database.checked_out == 0
    assert await database.scalar(WHO[type(server)]) != who


async def test_rows_that_go_on_coming_end_with_the_deadline(
    opened: Opened, mariadb: MariadbServer
) -> None:
    """A row each 20 ms for 20 s, each of them on time for itself."""
    database = opened(mariadb.url(), pool_size=1)
    await database.scalar("SELECT 1")
    rows = "SELECT SLEEP(0.02), REPEAT('x', 40000) FROM seq_1_to_1000"
    with deadline(0.5), pytest.raises(DeadlineExceededError):
        await asyncio.wait_for(database.scalar(rows), 10)
    assert database.checked_out == 0


async def test_a_stream_of_rows_ends_with_the_deadline_and_leaves_nothing_behind(
    opened: Opened, mariadb: MariadbServer
) -> None:
    """What PyMySQL's results would read on when they are let go is not asked for: a warning is an
    error in this suite."""
    database = opened(mariadb.url(), pool_size=1)

    def body(conn: Connection) -> None:
        rows = text("SELECT REPEAT('x', 1000) FROM seq_1_to_50000")
        with deadline(0.3):
            for _ in conn.execution_options(stream_results=True).execute(rows):
                time.sleep(0.001)

    with pytest.raises(DeadlineExceededError):
        await run(database, body)
    gc.collect()
    assert database.checked_out == 0
    assert await database.scalar("SELECT 1") == 1
