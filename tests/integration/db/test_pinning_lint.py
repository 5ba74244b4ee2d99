"""The linter on real engines: what it says, where it points, and how often."""

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Integer, String, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from datakit import events
from datakit.db import PinningWarning, lint_pinning
from datakit.db.pinning_lint import MAX_SEEN, _Linter
from datakit.errors import ConfigError
from datakit.testing import PostgresNode

from .conftest import Database

LOCK = text("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)")
HERE = Path(__file__)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    note: Mapped[str] = mapped_column(String)


@pytest.fixture(autouse=True)
def _every_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", PinningWarning)
        yield


@pytest.fixture
def told() -> Iterator[list[events.PinningFound]]:
    seen: list[events.PinningFound] = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.PinningFound):
            seen.append(event)

    unsubscribe = events.subscribe(note)
    yield seen
    unsubscribe()


@pytest.fixture
def linted(database: Database) -> Database:
    lint_pinning(database.bind)
    return database


def line_of(place: str) -> str:
    """Return the line of this file that `place` names."""
    filename, _, number = place.rpartition(":")
    assert filename == __file__
    return HERE.read_text(encoding="utf-8").splitlines()[int(number) - 1].strip()


async def warned(database: Database, body: Callable[[Connection], Any]) -> list[PinningWarning]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PinningWarning)
        await database.transact(body)
    return [w.message for w in caught if isinstance(w.message, PinningWarning)]


async def test_a_cause_is_told_once_with_its_place_and_its_fix(
    linted: Database, told: list[events.PinningFound]
) -> None:
    def body(conn: Connection) -> None:
        conn.execute(LOCK)  # here
        conn.execute(LOCK)
        conn.execute(text("SELECT pg_advisory_lock(2), pg_advisory_unlock(2)"))

    (warning,) = await warned(linted, body)
    assert await warned(linted, body) == []
    assert line_of(warning.place) == "conn.execute(LOCK)  # here"
    assert "pg_advisory_xact_lock" in str(warning)
    assert told == [events.PinningFound("advisory_lock", warning.place)]


async def test_each_cause_of_an_engine_is_told(linted: Database) -> None:
    def body(conn: Connection) -> None:
        conn.execute(text("SELECT 1; SET work_mem = '1MB'; CREATE TEMP TABLE scratch (a int)"))
        conn.execute(text("SET LOCAL work_mem = '2MB'"))
        conn.execute(text("DROP TABLE scratch"))

    found = await warned(linted, body)
    assert [warning.cause.name for warning in found] == ["session_set", "temporary_table"]


async def test_no_literal_and_no_parameter_is_told(
    linted: Database, told: list[events.PinningFound]
) -> None:
    def body(conn: Connection) -> None:
        statement = text("SELECT set_config('app.who', :canary, true), 'canary-1'")
        conn.execute(statement, {"canary": "canary-2"})

    (warning,) = await warned(linted, body)
    assert "canary-" not in f"{warning!s}{warning!r}{told}"


async def test_an_engine_that_is_not_linted_is_silent(
    database: Database, told: list[events.PinningFound]
) -> None:
    assert await warned(database, lambda conn: conn.execute(LOCK)) == []
    assert told == []


async def test_linting_twice_tells_once(linted: Database) -> None:
    lint_pinning(linted.bind)
    lint_pinning(linted.bind.execution_options(isolation_level="SERIALIZABLE"))
    assert len(await warned(linted, lambda conn: conn.execute(LOCK))) == 1


async def test_each_engine_tells_on_its_own(
    opened: Callable[..., Database], postgres: PostgresNode
) -> None:
    for _ in range(2):
        database = opened(postgres.url())
        lint_pinning(database.bind)
        assert len(await warned(database, lambda conn: conn.execute(LOCK))) == 1


async def test_a_warning_made_an_error_comes_out_and_the_statement_is_not_sent(
    linted: Database,
) -> None:
    def body(conn: Connection) -> None:
        conn.execute(text("INSERT INTO ledger VALUES (1, 'n')"))
        conn.execute(text("LISTEN a"))

    with warnings.catch_warnings():
        warnings.simplefilter("error", PinningWarning)
        with pytest.raises(PinningWarning, match=r"\(listen\)"):
            await linted.transact(body)
    assert await linted.scalar("SELECT count(*) FROM ledger") == 0
    assert linted.checked_out == 0


async def test_a_statement_without_parameters_is_looked_at(linted: Database) -> None:
    def body(conn: Connection) -> None:
        conn.exec_driver_sql("LISTEN a", execution_options={"no_parameters": True})

    (warning,) = await warned(linted, body)
    assert warning.cause.name == "listen"


async def test_a_failing_subscriber_harms_no_statement(linted: Database) -> None:
    def broken(event: events.Event) -> None:
        raise RuntimeError("subscriber bug")

    unsubscribe = events.subscribe(broken)
    assert len(await warned(linted, lambda conn: conn.execute(LOCK))) == 1
    unsubscribe()


async def test_executemany_and_orm_statements_are_looked_at(linted: Database) -> None:
    def body(conn: Connection) -> None:
        numbered = text("INSERT INTO ledger VALUES (nextval('numbers'), :note)")
        conn.execute(text("CREATE SEQUENCE numbers"))
        conn.execute(numbered, [{"note": "a"}, {"note": "b"}])
        with Session(conn, join_transaction_mode="rollback_only") as session:
            rows = [{"id": 10 + n, "note": "n"} for n in range(900)]
            session.scalars(insert(Note).returning(Note.id), rows).all()
        conn.execute(text("DROP SEQUENCE numbers"))

    found = await warned(linted, body)
    names = [(warning.cause.name, line_of(warning.place)) for warning in found]
    assert names == [
        ("sequence_function", 'conn.execute(numbered, [{"note": "a"}, {"note": "b"}])'),
        ("statement_over_16_kb", "session.scalars(insert(Note).returning(Note.id), rows).all()"),
    ]


async def test_a_streamed_result_declares_a_cursor_of_the_drivers(linted: Database) -> None:
    statement = text("SELECT note FROM ledger")
    assert await warned(linted, lambda conn: conn.execute(statement).all()) == []

    def body(conn: Connection) -> None:
        conn.execute(statement, execution_options={"yield_per": 10}).all()

    (warning,) = await warned(linted, body)
    assert warning.cause.name == "cursor"
    assert await warned(linted, body) == []


@pytest.mark.parametrize("kind", ["async"])
async def test_an_awaited_statement_is_placed_in_its_coroutine(linted: Database) -> None:
    """The listener runs in SQLAlchemy's greenlet; the coroutine is in the one that started it."""
    assert isinstance(linted.bind, AsyncEngine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PinningWarning)
        async with linted.bind.connect() as conn:
            await conn.execute(LOCK)  # awaited
            async with conn.stream(text("SELECT 1")) as rows:  # streamed
                assert [tuple(row) async for row in rows] == [(1,)]
            await conn.rollback()
        async with AsyncSession(linted.bind) as session:
            await session.execute(text("LISTEN a"))  # in a session
            session.add(Note(id=1, note="n" * 20_000))
            await session.flush()
            long = select(Note).prefix_with("/*" + "x" * 2**14 + "*/")
            await session.scalars(long)
    found = [w.message for w in caught if isinstance(w.message, PinningWarning)]
    assert [(warning.cause.name, line_of(warning.place)) for warning in found] == [
        ("advisory_lock", "await conn.execute(LOCK)  # awaited"),
        ("cursor", 'async with conn.stream(text("SELECT 1")) as rows:  # streamed'),
        ("listen", 'await session.execute(text("LISTEN a"))  # in a session'),
        ("statement_over_16_kb", "await session.scalars(long)"),
    ]


@pytest.mark.parametrize("kind", ["sync"])
async def test_a_caller_that_is_sqlalchemy_itself_has_no_place(linted: Database) -> None:
    """As where a thread's target is a bound method of a Connection."""
    assert isinstance(linted.bind, Engine)
    with linted.bind.connect() as conn, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PinningWarning)
        await asyncio.to_thread(conn.execute, LOCK)
    (warning,) = [w.message for w in caught if isinstance(w.message, PinningWarning)]
    assert warning.place == "<unknown>:0"


def test_an_engine_of_another_dialect_is_refused() -> None:
    with pytest.raises(ConfigError, match="not for 'sqlite'"):
        lint_pinning(create_engine("sqlite://"))


async def test_memory_stays_bounded(linted: Database) -> None:
    """Statements are remembered by their hash, and only so many."""

    def body(conn: Connection) -> None:
        for number in range(MAX_SEEN + 10):
            conn.exec_driver_sql(f"SELECT {number}")

    assert await warned(linted, body) == []
    linters = [item for item in gc.get_objects() if isinstance(item, _Linter)]
    assert 0 < max(len(linter._seen) for linter in linters) <= MAX_SEEN
