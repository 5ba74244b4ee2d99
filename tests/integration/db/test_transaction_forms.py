"""Every way to write a transaction: decorated, on scoped sessions, read only."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from datakit import transaction
from datakit.db import transactional
from datakit.errors import ConfigError
from datakit.testing import MariadbServer

from .conftest import Database

TERMINATE = text("SELECT pg_terminate_backend(pg_backend_pid())")
INSERT = text("INSERT INTO ledger VALUES (:id, 'n')")


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariadbServer]:
    with MariadbServer() as server:
        yield server


async def ledger(database: Database) -> list[int]:
    found = await database.scalar("SELECT array_agg(id ORDER BY id) FROM ledger")
    return list(found or [])


async def test_a_decorated_function_gets_the_connection_and_runs_again(database: Database) -> None:
    bind, runs = database.bind, 0

    def count_run() -> int:
        nonlocal runs
        runs += 1
        return runs

    if isinstance(bind, AsyncEngine):

        @transactional(bind)
        async def place_async(conn: AsyncConnection, number: int, *, note: str) -> str:
            """Place it."""
            await conn.execute(INSERT, {"id": number})
            if count_run() == 1:
                await conn.execute(TERMINATE)
            return note

        assert await place_async(7, note="done") == "done"
        assert place_async.__doc__ == "Place it."
    else:

        @transactional(bind)
        def place(conn: Connection, number: int, *, note: str) -> str:
            """Place it."""
            conn.execute(INSERT, {"id": number})
            if count_run() == 1:
                conn.execute(TERMINATE)
            return note

        assert await asyncio.to_thread(place, 7, note="done") == "done"
        assert place.__doc__ == "Place it."
    assert (runs, await ledger(database)) == (2, [7])


async def test_a_scoped_session_is_a_new_one_in_every_attempt(database: Database) -> None:
    bind = database.bind
    seen: list[object] = []
    if isinstance(bind, AsyncEngine):
        registry = async_scoped_session(async_sessionmaker(bind), asyncio.current_task)
        async for tx in transaction(registry):
            async with tx as session:
                assert registry() is session
                seen.append(session)
                await registry.execute(INSERT, {"id": len(seen)})
                if len(seen) == 1:
                    await registry.execute(TERMINATE)
        assert not registry.registry.has()
    else:
        scoped = scoped_session(sessionmaker(bind))
        for stx in transaction(scoped):
            with stx as plain:
                assert scoped() is plain
                seen.append(plain)
                scoped.execute(INSERT, {"id": len(seen)})
                if len(seen) == 1:
                    scoped.execute(TERMINATE)
        assert not scoped.registry.has()
    assert seen[0] is not seen[1]
    assert await ledger(database) == [2]


async def test_a_scoped_session_with_work_of_its_own_is_refused(database: Database) -> None:
    """What was added to it before would silently stay out of the transaction."""
    bind = database.bind
    with pytest.raises(InvalidRequestError, match="a transaction of its own"):
        if isinstance(bind, AsyncEngine):
            registry: async_scoped_session[AsyncSession]
            registry = async_scoped_session(async_sessionmaker(bind), asyncio.current_task)
            await registry.execute(INSERT, {"id": 1})
            try:
                async for tx in transaction(registry):
                    async with tx:
                        pass
            finally:
                await registry.remove()
        else:
            scoped: scoped_session[Session] = scoped_session(sessionmaker(bind))
            scoped.execute(INSERT, {"id": 1})
            try:
                for stx in transaction(scoped):
                    with stx:
                        pass
            finally:
                scoped.remove()


@pytest.mark.parametrize("family", ["postgresql", "mariadb"])
async def test_a_read_only_transaction_takes_no_writes_and_leaves_nothing_behind(
    family: str, opened: Callable[..., Database], database: Database, mariadb: MariadbServer
) -> None:
    subject = database
    if family == "mariadb":
        subject = opened(mariadb.url(), pool_size=1)
        await subject.transact(
            lambda conn: conn.execute(text("CREATE OR REPLACE TABLE ledger (id int, note text)"))
        )
    runs: list[int] = []

    def write(conn: Connection) -> None:
        runs.append(1)
        conn.execute(INSERT, {"id": 1})

    with pytest.raises(DBAPIError):
        await subject.transact(write, read_only=True)
    await subject.transact(lambda conn: conn.execute(text("SELECT 1")), read_only=True)
    await subject.transact(lambda conn: None, read_only=True)
    assert len(runs) == 1
    await subject.transact(write)
    assert await subject.scalar("SELECT count(*) FROM ledger") == 1


async def test_deferrable_is_postgresqls_alone(
    opened: Callable[..., Database], database: Database, mariadb: MariadbServer
) -> None:
    shown: list[Any] = []
    await database.transact(
        lambda conn: shown.append(conn.scalar(text("SHOW transaction_deferrable"))),
        isolation_level="SERIALIZABLE",
        read_only=True,
        deferrable=True,
    )
    assert shown == ["on"]
    with pytest.raises(ConfigError, match="deferrable"):
        await opened(mariadb.url()).transact(lambda conn: None, deferrable=True)


def test_a_factory_of_factories_is_refused(database: Database) -> None:
    assert isinstance(database.bind, Engine | AsyncEngine)
    with pytest.raises(ConfigError, match="scoped_session"):
        transaction(lambda: None)  # type: ignore[call-overload]
