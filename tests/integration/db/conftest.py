"""One harness for both kinds of engine: a body takes a sync Connection, on either."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import (
    AsyncResolver,
    Resolver,
    RetryPolicy,
    create_async_engine,
    create_engine,
    run_transaction,
    transaction,
)
from datakit.testing import MariadbServer, PostgresCluster, PostgresNode

Server = PostgresNode | MariadbServer
Body = Callable[[Connection], Any]


class Database:
    """A sync or an asyncio engine of datakit, driven from async tests."""

    def __init__(
        self,
        kind: str,
        url: str,
        *,
        servers: list[str] | None = None,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        self.bind: Engine | AsyncEngine
        if kind == "async":
            url = url.replace("+pymysql", "+aiomysql")
            self.bind = create_async_engine(
                url, resolver=AsyncResolver(servers), retry=retry, **options
            )
        else:
            self.bind = create_engine(url, resolver=Resolver(servers), retry=retry, **options)

    @property
    def is_async(self) -> bool:
        return isinstance(self.bind, AsyncEngine)

    @property
    def checked_out(self) -> int:
        return int(self.bind.pool.checkedout())  # type: ignore[attr-defined]

    async def transact(self, body: Body, **options: Any) -> None:
        """Run `body` in `for tx in transaction(...)`."""
        if isinstance(self.bind, AsyncEngine):
            async for tx in transaction(self.bind, **options):
                async with tx as conn:
                    await conn.run_sync(body)
            return
        await asyncio.to_thread(self._transact, body, options)

    def _transact(self, body: Body, options: dict[str, Any]) -> None:
        assert isinstance(self.bind, Engine)
        for tx in transaction(self.bind, **options):
            with tx as conn:
                body(conn)

    async def run_transaction(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Return what `fn(connection, *args)` returns in `run_transaction`."""
        if isinstance(self.bind, AsyncEngine):
            return await run_transaction(self.bind, lambda conn: conn.run_sync(fn, *args))
        return await asyncio.to_thread(run_transaction, self.bind, fn, *args)

    async def scalar(self, sql: str, **params: Any) -> Any:
        """Return the one value of a query outside datakit's transactions."""
        statement = text(sql)
        if isinstance(self.bind, AsyncEngine):
            async with self.bind.connect() as conn:
                return (await conn.execute(statement, params)).scalar()
        return await asyncio.to_thread(self._scalar, statement, params)

    def _scalar(self, statement: Any, params: dict[str, Any]) -> Any:
        assert isinstance(self.bind, Engine)
        with self.bind.connect() as conn:
            return conn.execute(statement, params).scalar()

    async def close(self) -> None:
        disposed = self.bind.dispose()
        if disposed is not None:
            await disposed


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def opened(kind: str) -> AsyncIterator[Callable[..., Database]]:
    """Make databases that are closed at the end of the test."""
    databases: list[Database] = []

    def opener(url: str, **options: Any) -> Database:
        databases.append(Database(kind, url, **options))
        return databases[-1]

    yield opener
    for database in databases:
        await database.close()


@pytest.fixture(scope="session")
def plain_servers() -> Iterator[dict[str, Server]]:
    """One of each family without TLS or a password."""
    with PostgresCluster(standbys=0, binaries="system") as cluster, MariadbServer() as mariadb:
        yield {"postgresql": cluster.primary, "mariadb": mariadb}


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest, plain_servers: dict[str, Server]) -> Iterator[Server]:
    """One without TLS or a password. A test may harm it, and drops the tables that it makes."""
    server = plain_servers[str(request.param)]
    yield server
    if server.alive:
        server.resume_process()
    else:
        server.restart()


@pytest.fixture
async def database(
    opened: Callable[..., Database], postgres: PostgresNode
) -> AsyncIterator[Database]:
    """A database with an empty table `ledger` (id, note) without any constraint."""
    database = opened(postgres.url())
    await database.transact(
        lambda conn: conn.execute(text("CREATE TABLE ledger (id int, note text)"))
    )
    yield database
    admin = opened(postgres.url())
    await admin.transact(lambda conn: conn.execute(text("DROP TABLE ledger")))
