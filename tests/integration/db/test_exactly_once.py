"""`exactly_once=True`: a COMMIT whose answer is lost is settled by the token, on both families."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, event, inspect, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from datakit import RetryPolicy, create_engine, deadline, events, transaction
from datakit.db import exactly_once
from datakit.db.sync_engine import sync_engine
from datakit.errors import CommitUnknownError, ConfigError
from datakit.testing import FaultProxy, MariadbServer, PostgresCluster, PostgresNode

from .conftest import Database

Server = PostgresNode | MariadbServer
INSERT = text("INSERT INTO payments (run) VALUES (:run)")


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "mariadb":
        with MariadbServer() as mariadb:
            yield mariadb
    else:
        with PostgresCluster(standbys=0, binaries="system") as cluster:
            yield cluster.primary


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.address, server.port) as proxy:
        yield proxy


async def maintained(bind: Engine | AsyncEngine, work: Callable[..., Any], *args: Any) -> Any:
    if isinstance(bind, AsyncEngine):
        return await work(bind, *args)
    return await asyncio.to_thread(work, bind, *args)


@pytest.fixture
async def direct(opened: Callable[..., Database], server: Server) -> Database:
    """A database with empty tables `payments` and `datakit_commits`, not through the proxy."""
    database = opened(server.url())
    await maintained(database.bind, exactly_once.create_table)

    def create(conn: Connection) -> None:
        conn.execute(text("DROP TABLE IF EXISTS payments"))
        conn.execute(text("CREATE TABLE payments (run int)"))
        conn.execute(text("DELETE FROM datakit_commits"))

    await database.transact(create)
    return database


@pytest.fixture
def database(
    opened: Callable[..., Database], server: Server, proxy: FaultProxy, direct: Database
) -> Database:
    url = server.url().replace(f"{server.address}:{server.port}", f"{proxy.host}:{proxy.port}")
    return opened(url, retry=RetryPolicy(base=0.01, deadline=10))


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    records: list[events.Event] = []
    unsubscribe = events.subscribe(records.append)
    yield records
    unsubscribe()


def resolved(seen: list[events.Event]) -> list[bool]:
    return [record.committed for record in seen if isinstance(record, events.CommitResolved)]


async def runs_kept(database: Database) -> list[int]:
    joined = (
        "SELECT string_agg(run::text, ',' ORDER BY run) FROM payments"
        if database.bind.dialect.name == "postgresql"
        else "SELECT group_concat(run ORDER BY run) FROM payments"
    )
    found = await database.scalar(joined)
    return [int(run) for run in found.split(",")] if found else []


class Body:
    """Inserts the number of its run, then does `once` in its first run alone."""

    def __init__(self, once: Callable[[], object]) -> None:
        self.once = once
        self.runs = 0

    def __call__(self, conn: Connection) -> None:
        self.runs += 1
        conn.execute(INSERT, {"run": self.runs})
        if self.runs == 1:
            self.once()


async def test_a_commit_whose_answer_is_lost_is_found(
    database: Database, direct: Database, proxy: FaultProxy, seen: list[events.Event]
) -> None:
    body = Body(lambda: proxy.drop_reply(b"COMMIT", times=1))
    await database.transact(body, exactly_once=True)
    assert resolved(seen) == [True]
    assert (body.runs, await runs_kept(direct)) == (1, [1])
    assert database.checked_out == 0


async def test_the_token_costs_one_round_trip(direct: Database, tmp_path: Path) -> None:
    """Counted by libpq's own trace, or by the server."""
    without = await round_trips(direct, tmp_path / "without", exactly_once=False)
    once = await round_trips(direct, tmp_path / "once", exactly_once=True)
    assert without >= 2  # the body's statement and COMMIT
    assert once == without + 1


async def round_trips(database: Database, trace: Path, *, exactly_once: bool) -> int:
    """Return how often a transaction asks the server, from its body's first statement on."""
    counted = "SHOW SESSION STATUS LIKE 'Questions'"
    before = 0
    is_postgres = database.bind.dialect.name == "postgresql"

    def body(conn: Connection) -> None:
        nonlocal before
        if is_postgres:
            pgconn = conn.connection.driver_connection.pgconn  # type: ignore[union-attr]
            pgconn.trace(traced.fileno())
        else:
            before = int(conn.exec_driver_sql(counted).one()[1])
        conn.execute(INSERT, {"run": 1})

    with trace.open("w") as traced:
        await database.transact(body, exactly_once=exactly_once)
        if is_postgres:
            await database.close()  # the trace is whole then
    if is_postgres:
        text_of_trace = await asyncio.to_thread(trace.read_text)
        lines = [line.split("\t") for line in text_of_trace.splitlines()]
        return sum(line[1] == "F" and line[3] in {"Query", "Sync"} for line in lines)
    rows: list[int] = []
    await database.transact(lambda conn: rows.append(int(conn.exec_driver_sql(counted).one()[1])))
    return rows[0] - before - 2  # the next transaction's BEGIN and this question itself


async def test_a_body_that_moves_to_another_schema_is_found_as_well(
    database: Database, direct: Database, proxy: FaultProxy, server: Server
) -> None:
    """The schema has a table of the same name, as one a tenant has."""
    if isinstance(server, MariadbServer):
        server.query("CREATE DATABASE IF NOT EXISTS `a%tenant`")
        server.query(
            "CREATE TABLE IF NOT EXISTS `a%tenant`.datakit_commits LIKE app.datakit_commits"
        )
        server.query("GRANT ALL ON `a%tenant`.* TO app")
        move = "USE `a%tenant`"
    else:
        move = 'SET LOCAL search_path TO "a%tenant"'
        made = (
            'CREATE SCHEMA IF NOT EXISTS "a%tenant"',
            'CREATE TABLE IF NOT EXISTS "a%tenant".datakit_commits (LIKE datakit_commits'
            " INCLUDING ALL)",
        )
        await direct.transact(lambda conn: [conn.execute(text(each)) for each in made])

    def work(conn: Connection) -> None:
        body(conn)
        conn.execute(text(move))

    body = Body(lambda: proxy.drop_reply(b"COMMIT", times=1))
    await database.transact(work, exactly_once=True)
    assert (body.runs, await runs_kept(direct)) == (1, [1])


async def test_a_commit_that_never_came_is_run_again(
    database: Database, direct: Database, proxy: FaultProxy, seen: list[events.Event]
) -> None:
    def cut(conn: Connection) -> None:
        proxy.reset()
        proxy.heal()

    body = Body(lambda: event.listen(sync_engine(database.bind), "commit", cut, once=True))
    await database.transact(body, exactly_once=True)
    assert resolved(seen) == [False]
    assert (body.runs, await runs_kept(direct)) == (2, [2])


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("came", [True, False])
async def test_stricter_isolation_hides_no_token(
    opened: Callable[..., Database],
    server: Server,
    direct: Database,
    proxy: FaultProxy,
    level: str,
    came: bool,
) -> None:
    url = server.url().replace(f"{server.address}:{server.port}", f"{proxy.host}:{proxy.port}")
    database = opened(url, isolation_level=level)

    def cut(conn: Connection) -> None:
        proxy.reset()
        proxy.heal()

    def lose() -> None:
        if came:
            proxy.drop_reply(b"COMMIT", times=1)
        else:
            event.listen(sync_engine(database.bind), "commit", cut, once=True)

    body = Body(lose)
    await database.transact(body, exactly_once=True)
    runs = 1 if came else 2
    assert (body.runs, await runs_kept(direct)) == (runs, [runs])


async def test_a_commit_that_is_still_under_way_is_waited_for(
    database: Database,
    direct: Database,
    server: Server,
    proxy: FaultProxy,
    seen: list[events.Event],
) -> None:
    """A question that only looks for the row would see none, and the body would run twice."""
    if isinstance(server, PostgresNode):
        await direct.transact(
            lambda conn: [conn.execute(text(statement)) for statement in WAIT_AT_COMMIT]
        )
    hold = Hold(server)
    with closing(hold.connection):
        body = Body(
            lambda: event.listen(sync_engine(database.bind), "commit", hold.lock, once=True)
        )
        running = asyncio.create_task(database.transact(body, exactly_once=True))
        await until(lambda: commit_waits(server))
        proxy.reset()
        proxy.heal()
        await asyncio.sleep(0.5)
        assert not running.done()
        hold.unlock()
        await running
    kept = await runs_kept(direct)
    assert len(kept) == 1
    assert resolved(seen) == [kept == [1]]
    assert body.runs == kept[0]


async def test_without_an_answer_until_the_deadline_the_token_tells_later(
    database: Database, direct: Database, proxy: FaultProxy
) -> None:
    body = Body(lambda: proxy.drop_reply(b"COMMIT"))
    event.listen(sync_engine(database.bind), "handle_error", lambda _: proxy.black_hole())
    with pytest.raises(CommitUnknownError, match="was_committed") as caught:
        await database.transact(body, exactly_once=True, retry=RetryPolicy(deadline=1.0))
    token = caught.value.token
    assert token is not None
    assert "looking for the token failed" in "".join(caught.value.__notes__)
    assert await maintained(direct.bind, exactly_once.was_committed, token) is True
    assert await maintained(direct.bind, exactly_once.was_committed, "0" * 32) is False
    assert await maintained(direct.bind, exactly_once.was_committed, "0" * 32) is False
    assert database.checked_out == 0


async def test_a_users_deadline_ends_the_question_too(
    database: Database, direct: Database, proxy: FaultProxy
) -> None:
    body = Body(lambda: proxy.drop_reply(b"COMMIT"))
    event.listen(sync_engine(database.bind), "handle_error", lambda _: proxy.black_hole())
    with deadline(0.7), pytest.raises(CommitUnknownError) as caught:
        await database.transact(body, exactly_once=True)
    assert caught.value.token is not None
    assert await runs_kept(direct) == [1]


async def test_a_transaction_left_by_return_needs_no_second_run(
    database: Database, direct: Database, proxy: FaultProxy
) -> None:
    """The row says that it is committed, so there is nothing to come back for."""
    bind = database.bind

    def pay(engine: Engine) -> int:
        for tx in transaction(engine, exactly_once=True):
            with tx as conn:
                conn.execute(INSERT, {"run": 1})
                proxy.drop_reply(b"COMMIT", times=1)
                return 7
        raise AssertionError

    async def pay_async(engine: AsyncEngine) -> int:
        async for tx in transaction(engine, exactly_once=True):
            async with tx as conn:
                await conn.execute(INSERT, {"run": 1})
                proxy.drop_reply(b"COMMIT", times=1)
                return 7
        raise AssertionError

    if isinstance(bind, AsyncEngine):
        assert await pay_async(bind) == 7
    else:
        assert await asyncio.to_thread(pay, bind) == 7
    assert await runs_kept(direct) == [1]


async def test_a_missing_table_is_named(database: Database, direct: Database) -> None:
    await direct.transact(lambda conn: conn.execute(text("DROP TABLE datakit_commits")))
    with pytest.raises(ProgrammingError) as caught:
        await database.transact(Body(lambda: None), exactly_once=True)
    assert "create_table(engine)" in "".join(caught.value.__notes__)
    assert await runs_kept(direct) == []


async def test_old_rows_are_removed(
    database: Database, direct: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = text("INSERT INTO datakit_commits VALUES (:token, '2020-01-01')")
    await direct.transact(
        lambda conn: conn.execute(old, [{"token": "a" * 32}, {"token": "b" * 32}])
    )
    await database.transact(Body(lambda: None), exactly_once=True)
    assert await maintained(direct.bind, exactly_once.purge) == 2
    assert await direct.scalar("SELECT count(*) FROM datakit_commits") == 1
    monkeypatch.setattr(exactly_once, "PURGE_CHANCE", 1.0)
    monkeypatch.setattr(exactly_once, "RETENTION", -5.0)
    await database.transact(Body(lambda: None), exactly_once=True)
    assert await direct.scalar("SELECT count(*) FROM datakit_commits") == 0


async def test_a_session_writes_the_token_as_well(
    database: Database, direct: Database, proxy: FaultProxy, seen: list[events.Event]
) -> None:
    bind = database.bind
    if isinstance(bind, AsyncEngine):
        async for atx in transaction(async_sessionmaker(bind), exactly_once=True):
            async with atx as asession:
                await asession.execute(INSERT, {"run": 1})
                proxy.drop_reply(b"COMMIT", times=1)
    else:
        for tx in transaction(sessionmaker(bind), exactly_once=True):
            with tx as session:
                session.execute(INSERT, {"run": 1})
                proxy.drop_reply(b"COMMIT", times=1)
    assert resolved(seen) == [True]
    assert await runs_kept(direct) == [1]


def test_the_alembic_operation_creates_and_drops_the_same_table(server: Server) -> None:
    engine = create_engine(server.url())
    with engine.begin() as conn:
        conn.execute(text("DROP TABLE IF EXISTS datakit_commits"))
        op = Operations(MigrationContext.configure(conn))
        exactly_once.upgrade(op)
        assert inspect(conn).get_pk_constraint("datakit_commits")["constrained_columns"] == [
            "token"
        ]
        assert [i["column_names"] for i in inspect(conn).get_indexes("datakit_commits")] == [
            ["committed_at"]
        ]
        exactly_once.downgrade(op)
        assert not inspect(conn).has_table("datakit_commits")
    engine.dispose()


@pytest.mark.parametrize("options", [{"idempotent": True}, {"read_only": True}])
def test_options_that_contradict_it_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match="exactly_once=True does not go with"):
        transaction(
            create_engine("postgresql+psycopg://a@127.0.0.1/a"), exactly_once=True, **options
        )


@pytest.mark.parametrize("token", [None, "", "x" * 32, "0" * 31])
def test_what_is_no_token_is_refused(token: Any) -> None:
    with pytest.raises(ConfigError, match="token="):
        exactly_once.was_committed(create_engine("postgresql+psycopg://a@127.0.0.1/a"), token)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - a server's state
            await asyncio.sleep(0.02)


class Hold:
    """Lets no COMMIT be done, from one moment to another."""

    def __init__(self, server: Server) -> None:
        if isinstance(server, MariadbServer):
            server.query("GRANT RELOAD ON *.* TO app@'%'")
            self.locking, self.unlocking = "FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES"
        else:
            self.locking, self.unlocking = (
                "SELECT pg_advisory_lock(7)",
                "SELECT pg_advisory_unlock(7)",
            )
        self.connection = create_engine(server.url(), poolclass=NullPool).connect()

    def lock(self, conn: Connection | None = None) -> None:
        self.connection.exec_driver_sql(self.locking)

    def unlock(self) -> None:
        self.connection.exec_driver_sql(self.unlocking)


WAIT_AT_COMMIT = (
    "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END$$",
    "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON payments "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
)


def commit_waits(server: Server) -> bool:
    waiting = (
        "SELECT count(*) FROM information_schema.processlist WHERE info = 'COMMIT'"
        if isinstance(server, MariadbServer)
        else "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"
    )
    engine = create_engine(server.url())
    with engine.connect() as conn:
        count = conn.scalar(text(waiting))
    engine.dispose()
    return bool(count)
