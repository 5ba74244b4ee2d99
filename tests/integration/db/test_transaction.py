"""Transactions against a real PostgreSQL: run again when that is safe, and never otherwise."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from datakit import RetryPolicy, events, transaction
from datakit.errors import CommitUnknownError, ConfigError
from datakit.testing import FaultProxy, PostgresNode

from .conftest import Database

TERMINATE = text("SELECT pg_terminate_backend(pg_backend_pid())")
INSERT = text("INSERT INTO ledger VALUES (:id, 'n')")
Opened = Callable[..., Database]


class Runs:
    """A body that inserts a row per run, and fails as told in its first runs."""

    def __init__(self, *failures: Callable[[Connection], object]) -> None:
        self.failures = list(failures)
        self.count = 0

    def __call__(self, conn: Connection) -> int:
        self.count += 1
        conn.execute(INSERT, {"id": self.count})
        if self.failures:
            self.failures.pop(0)(conn)
        return self.count


def terminate(conn: Connection) -> None:
    conn.execute(TERMINATE)


def conflict(conn: Connection) -> None:
    conn.execute(text("DO $$BEGIN RAISE EXCEPTION 'c' USING ERRCODE = '40001'; END$$"))


def read_only(conn: Connection) -> None:
    conn.execute(text("DO $$BEGIN RAISE EXCEPTION 'r' USING ERRCODE = '25006'; END$$"))


async def rows(database: Database) -> list[int]:
    found = await database.scalar("SELECT array_agg(id ORDER BY id) FROM ledger")
    return list(found or [])


async def test_a_body_that_ends_well_is_committed_once(database: Database) -> None:
    body = Runs()
    await database.transact(body)
    assert (body.count, await rows(database)) == (1, [1])
    assert database.checked_out == 0


@pytest.mark.parametrize("failure", [terminate, conflict, read_only])
async def test_the_body_runs_again_and_only_its_last_run_counts(
    database: Database, failure: Callable[[Connection], object]
) -> None:
    body = Runs(failure, failure)
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    await database.transact(body)
    unsubscribe()
    assert (body.count, await rows(database)) == (3, [3])
    retried = [e for e in seen if isinstance(e, events.TransactionRetried)]
    assert [event.attempt for event in retried] == [2, 3]
    assert database.checked_out == 0


async def test_a_conflict_is_tried_three_times_in_all(database: Database) -> None:
    body = Runs(*[conflict] * 9)
    with pytest.raises(OperationalError) as caught:
        await database.transact(body)
    assert body.count == 3
    assert "gave up after 3 attempt(s)" in caught.value.__notes__[0]
    assert await rows(database) == []


async def test_the_bodys_own_exception_goes_straight_up(database: Database) -> None:
    class OwnError(Exception):
        pass

    def fail(conn: Connection) -> None:
        raise OwnError

    body = Runs(fail)
    with pytest.raises(OwnError):
        await database.transact(body)
    assert (body.count, await rows(database)) == (1, [])
    assert database.checked_out == 0


async def test_a_callers_mistake_goes_straight_up_without_a_note(database: Database) -> None:
    body = Runs(lambda conn: conn.execute(text("SELECT * FROM nothing")))
    with pytest.raises(DBAPIError) as caught:
        await database.transact(body)
    assert body.count == 1
    assert not hasattr(caught.value, "__notes__")


async def test_a_read_only_transaction_that_writes_is_the_callers_mistake(
    database: Database,
) -> None:
    body = Runs()
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await database.transact(body, postgresql_readonly=True)
    assert body.count == 1


async def test_begin_options_hold_in_the_transaction(database: Database) -> None:
    levels = []
    await database.transact(
        lambda conn: levels.append(conn.scalar(text("SHOW transaction_isolation"))),
        isolation_level="SERIALIZABLE",
    )
    assert levels == ["serializable"]


async def test_a_caught_error_does_not_turn_commit_into_a_silent_rollback(
    database: Database,
) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error."""

    def swallow(conn: Connection) -> None:
        with pytest.raises(DBAPIError):
            conn.execute(text("SELECT * FROM nothing"))

    with pytest.raises(PendingRollbackError, match="nothing was committed"):
        await database.transact(Runs(swallow))
    assert await rows(database) == []
    assert database.checked_out == 0


async def test_a_body_that_committed_by_itself_does_not_run_again(database: Database) -> None:
    def commit_then_lose(conn: Connection) -> None:
        conn.commit()
        raise OperationalError("", None, Exception(), connection_invalidated=True)

    body = Runs(commit_then_lose)
    with pytest.raises(OperationalError):
        await database.transact(body)
    assert (body.count, await rows(database)) == (1, [1])


async def test_run_transaction_returns_the_last_runs_result(database: Database) -> None:
    assert await database.run_transaction(Runs(terminate)) == 2
    assert await rows(database) == [2]


async def test_nesting_is_refused(database: Database) -> None:
    bind = database.bind
    with pytest.raises(InvalidRequestError, match="pass the connection down"):
        if isinstance(bind, AsyncEngine):
            async for outer in transaction(bind):
                async with outer:
                    async for inner in transaction(bind):
                        async with inner:
                            pass
        else:
            for sync_outer in transaction(bind):
                with sync_outer:
                    for sync_inner in transaction(bind):
                        with sync_inner:
                            pass
    assert database.checked_out == 0
    await database.transact(Runs())


async def test_a_loop_that_does_not_enter_its_attempt_is_told_so(database: Database) -> None:
    with pytest.raises(InvalidRequestError, match="with tx as conn"):
        if isinstance(database.bind, AsyncEngine):
            async for _ in transaction(database.bind):
                pass
        else:
            for _tx in transaction(database.bind):
                pass


async def test_autocommit_is_refused(
    opened: Opened, postgres: PostgresNode, database: Database
) -> None:
    """Each statement would be committed at once, and run twice when the body is run again."""
    with pytest.raises(ConfigError, match="AUTOCOMMIT"):
        await database.transact(Runs(), isolation_level="AUTOCOMMIT")
    with pytest.raises(ConfigError, match="AUTOCOMMIT"):
        await opened(postgres.url(), isolation_level="AUTOCOMMIT").transact(Runs())
    assert await rows(database) == []
    assert database.checked_out == 0
    await database.transact(Runs())


async def test_a_task_started_inside_a_transaction_may_open_its_own(
    postgres: PostgresNode,
) -> None:
    database = Database("async", postgres.url())
    release = asyncio.Event()

    async def background() -> None:
        await release.wait()
        await database.transact(lambda conn: conn.execute(text("SELECT 1")))

    tasks = []
    assert isinstance(database.bind, AsyncEngine)
    async for tx in transaction(database.bind):
        async with tx:
            tasks.append(asyncio.create_task(background()))
    release.set()
    await tasks[0]
    await database.close()


async def test_an_attempt_is_entered_once_and_in_a_loop(database: Database) -> None:
    """Two bodies in one attempt would run twice when the second one is to run again."""
    if isinstance(database.bind, AsyncEngine):
        with pytest.raises(InvalidRequestError, match="entered once"):
            async with transaction(database.bind):
                pass
        async for tx in transaction(database.bind):
            async with tx:
                pass
            with pytest.raises(InvalidRequestError, match="entered once"):
                async with tx:
                    pass
    else:
        with pytest.raises(InvalidRequestError, match="entered once"), transaction(database.bind):
            pass
        for sync_tx in transaction(database.bind):
            with sync_tx:
                pass
            with pytest.raises(InvalidRequestError, match="entered once"), sync_tx:
                pass


async def test_a_session_is_new_in_every_attempt(database: Database) -> None:
    sessions: list[object] = []
    if isinstance(database.bind, AsyncEngine):
        async_factory = async_sessionmaker(database.bind)
        async for tx in transaction(async_factory):
            async with tx as session:
                sessions.append(session)
                await session.execute(INSERT, {"id": len(sessions)})
                if len(sessions) == 1:
                    await session.execute(TERMINATE)
    else:
        factory = sessionmaker(database.bind)
        for sync_tx in transaction(factory):
            with sync_tx as sync_session:
                sessions.append(sync_session)
                sync_session.execute(INSERT, {"id": len(sessions)})
                if len(sessions) == 1:
                    sync_session.execute(TERMINATE)
    assert sessions[0] is not sessions[1]
    assert await rows(database) == [2]
    assert database.checked_out == 0


async def test_a_session_as_bind_is_refused(database: Database) -> None:
    session: Any = Session()
    with pytest.raises(ConfigError, match="sessionmaker"):
        transaction(session)


class TestLostCommit:
    """The server executes COMMIT and its reply is lost."""

    @pytest.fixture
    def proxied(self, opened: Opened, postgres: PostgresNode, database: Database) -> Database:
        self.proxy = FaultProxy(postgres.address, postgres.port).start()
        url = postgres.url().replace(
            f"{postgres.address}:{postgres.port}", f"{self.proxy.host}:{self.proxy.port}"
        )
        return opened(url, retry=RetryPolicy(deadline=10))

    @pytest.fixture(autouse=True)
    def _closing(self, proxied: Database) -> object:
        yield
        self.proxy.close()

    def lose_replies(self, conn: Connection) -> None:
        self.proxy.drop_reply(b"COMMIT")

    async def test_it_raises_and_is_not_run_again(
        self, proxied: Database, database: Database
    ) -> None:
        body = Runs(self.lose_replies)
        with pytest.raises(CommitUnknownError, match="idempotent=True") as caught:
            await proxied.transact(body)
        assert (body.count, await rows(database)) == (1, [1])
        assert caught.value.token is None
        assert isinstance(caught.value.__cause__, DBAPIError)

    async def test_idempotent_runs_it_again(self, proxied: Database, database: Database) -> None:
        def heal(conn: Connection) -> None:
            self.proxy.heal()

        body = Runs(self.lose_replies, heal)
        await proxied.transact(body, idempotent=True)
        assert (body.count, await rows(database)) == (2, [1, 2])

    async def test_a_body_left_by_return_is_not_lost_silently(
        self, proxied: Database, database: Database
    ) -> None:
        """With `return` inside the block nobody would ask for the promised second run."""
        bind = proxied.bind

        def left_by_return(engine: Engine) -> int | None:
            for tx in transaction(engine, idempotent=True):
                with tx as conn:
                    conn.execute(INSERT, {"id": 1})
                    self.proxy.drop_reply(b"COMMIT")
                    return 1
            return None

        async def left_by_async_return(engine: AsyncEngine) -> int | None:
            async for tx in transaction(engine, idempotent=True):
                async with tx as conn:
                    await conn.execute(INSERT, {"id": 1})
                    self.proxy.drop_reply(b"COMMIT")
                    return 1
            return None

        with pytest.raises(CommitUnknownError):
            if isinstance(bind, AsyncEngine):
                await left_by_async_return(bind)
            else:
                await asyncio.to_thread(left_by_return, bind)


async def test_cancellation_leaves_no_transaction_open(postgres: PostgresNode) -> None:
    database = Database("async", postgres.url(), pool_size=1, max_overflow=0)
    assert isinstance(database.bind, AsyncEngine)

    async def endless(engine: AsyncEngine) -> None:
        async for tx in transaction(engine):
            async with tx as conn:
                await conn.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(endless(database.bind))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert database.checked_out == 0
    assert await database.scalar("SELECT 1") == 1
    await database.close()


async def test_keyboard_interrupt_in_the_body_rolls_back(database: Database) -> None:
    def interrupt(conn: Connection) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        await database.transact(Runs(interrupt))
    assert await rows(database) == []
    assert database.checked_out == 0


async def test_a_duplicate_key_goes_straight_up(database: Database) -> None:
    await database.transact(lambda conn: conn.execute(text("ALTER TABLE ledger ADD UNIQUE (id)")))
    await database.transact(Runs())
    body = Runs()
    with pytest.raises(IntegrityError):
        await database.transact(body)
    assert body.count == 1
