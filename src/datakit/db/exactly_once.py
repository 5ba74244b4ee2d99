"""The table that settles what became of a COMMIT whose answer was lost.

Each transaction with `exactly_once=True` writes a row with its token just before COMMIT. Whoever
tries to write the same token again is told: the database lets it wait while that COMMIT is under
way, refuses it as a duplicate when it was committed, and takes it when the transaction is gone for
good. A SELECT could not tell "under way" from "gone".
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from sqlalchemy import (
    CHAR,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    MetaData,
    Table,
    func,
    text,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError

from datakit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

RETENTION: Final = 7 * 86_400.0
"""Seconds for which a token is kept. A transaction asks within its own deadline; the rest is for
people who look up the token of a `CommitUnknownError`."""

PURGE_CHANCE: Final = 0.001
"""The share of transactions that remove old rows after their COMMIT."""

PURGE_AT_MOST: Final = 10_000
"""Rows removed at once: ten times what comes in meanwhile."""

TABLE: Final = Table(
    "datakit_commits",
    MetaData(),
    Column("token", CHAR(32), primary_key=True),
    Column("committed_at", DateTime, nullable=False, server_default=func.now()),
    Index("datakit_commits_committed_at", "committed_at"),
)

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")

_WRITE: Final = "INSERT INTO {}datakit_commits (token) VALUES (%s)"

_SCHEMA: Final = (
    "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.oid = %s AND relname = 'datakit_commits'"
)
"""Of the table that PostgreSQL put the row in: a body may have set another search_path."""

_PURGE: Final = {
    "postgresql": text(
        "DELETE FROM datakit_commits WHERE token IN ("
        "SELECT token FROM datakit_commits WHERE committed_at < now() - make_interval(secs => :age)"
        " ORDER BY committed_at LIMIT :rows FOR UPDATE SKIP LOCKED)"
    ),
    "mysql": text(
        "DELETE FROM datakit_commits WHERE committed_at < CURRENT_TIMESTAMP - INTERVAL :age SECOND"
        " ORDER BY committed_at LIMIT :rows"
    ),
}


@overload
def create_table(engine: Engine) -> None: ...
@overload
def create_table(engine: "AsyncEngine") -> "Awaitable[None]": ...
def create_table(engine: "Engine | AsyncEngine") -> "Awaitable[None] | None":
    """Create the table `datakit_commits` if it is missing; awaitable for an AsyncEngine.

    In an Alembic migration use `upgrade(op)`.
    """
    return _within(engine, lambda connection: TABLE.create(connection, checkfirst=True))


def upgrade(op: Any) -> None:
    """Create the table in an Alembic migration, online or `--sql`. op: `alembic.op`."""
    op.create_table(TABLE.name, *(column._copy() for column in TABLE.columns))
    for index in TABLE.indexes:
        op.create_index(index.name, TABLE.name, [column.name for column in index.columns])


def downgrade(op: Any) -> None:
    """Drop the table in an Alembic migration. op: `alembic.op`."""
    op.drop_table(TABLE.name)


@overload
def was_committed(engine: Engine, token: str) -> bool: ...
@overload
def was_committed(engine: "AsyncEngine", token: str) -> "Awaitable[bool]": ...
def was_committed(engine: "Engine | AsyncEngine", token: str) -> "Awaitable[bool] | bool":
    """Return whether the transaction of a `CommitUnknownError.token` was committed.

    It looks where `create_table(engine)` creates the table, and waits while that COMMIT is still
    under way. The answer is right for `RETENTION` seconds,
    after which the row is gone. Awaitable for an AsyncEngine.

    Raises:
        ConfigError: `token` is none of a transaction's.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ConfigError(f"was_committed(token={token!r}): pass a CommitUnknownError's token")
    return _within(engine, lambda connection: look_up(connection, token))


@overload
def purge(engine: Engine, *, older_than: float = RETENTION) -> int: ...
@overload
def purge(engine: "AsyncEngine", *, older_than: float = RETENTION) -> "Awaitable[int]": ...
def purge(
    engine: "Engine | AsyncEngine", *, older_than: float = RETENTION
) -> "Awaitable[int] | int":
    """Remove rows older than so many seconds, `PURGE_AT_MOST` at once; return how many.

    Transactions do so themselves now and then. Awaitable for an AsyncEngine.
    """
    return _within(engine, lambda connection: remove_old(connection, older_than))


def write(connection: Connection, token: str) -> int | None:
    """Write `token` in the open transaction; return PostgreSQL's number of the table it is in."""
    try:
        if connection.dialect.name == "postgresql":
            sql = _WRITE.format("") + " RETURNING tableoid"
            return int(connection.exec_driver_sql(sql, (token,)).scalar_one())
        connection.exec_driver_sql(_in_schema(connection, None), (token,))
    except ProgrammingError as exc:
        exc.add_note(
            "datakit: exactly_once=True needs the table datakit_commits: create it with "
            "datakit.db.exactly_once.create_table(engine)"
        )
        raise
    return None


def look_up(connection: Connection, token: str, table: int | None = None) -> bool:
    """Return whether the transaction that wrote `token` was committed; roll back.

    table: what `write` returned; None for where the connection looks by itself.
    """
    schema = None
    if table is not None:
        schema = connection.exec_driver_sql(_SCHEMA, (table,)).scalar()
    try:
        connection.exec_driver_sql(_in_schema(connection, schema), (token,))
    except IntegrityError:
        return True
    finally:
        connection.rollback()
    return False


def _in_schema(connection: Connection, schema: str | None) -> str:
    """Return the statement for a table of `schema`, or of MySQL's database of the URL: USE in a
    body holds for whoever has its connection next."""
    dialect = connection.dialect
    if schema is None and dialect.name != "postgresql":
        schema = dialect.default_schema_name
    return _WRITE.format(f"{dialect.identifier_preparer.quote(schema)}." if schema else "")


def remove_old(connection: Connection, age: float) -> int:
    """Remove rows older than `age` seconds in the open transaction; return how many."""
    family = "postgresql" if connection.dialect.name == "postgresql" else "mysql"
    return connection.execute(_PURGE[family], {"age": age, "rows": PURGE_AT_MOST}).rowcount


def _within(engine: "Engine | AsyncEngine", work: Callable[[Connection], T]) -> "Awaitable[T] | T":
    """Return `work(connection)`, done in a transaction; awaitable for an AsyncEngine."""
    if isinstance(engine, Engine):
        with engine.begin() as connection:
            return work(connection)
    return _awaited(engine, work)


async def _awaited(engine: "AsyncEngine", work: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(work)
