"""Readers: their share, their absence, and sessions that read there what was just written."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import Resolver, create_engine, events, transaction
from datakit.db import routing_sessionmaker
from datakit.db.endpoint import PROFILES
from datakit.errors import ConfigError
from datakit.testing import (
    DnsServer,
    FaultProxy,
    MariadbCluster,
    MariadbNode,
    PostgresCluster,
    PostgresNode,
)

from .conftest import Database

Cluster = PostgresCluster | MariadbCluster
Opened = Callable[..., Database]
READER = "readers.shop.internal"


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def trio(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A primary with two followers, that the tests leave as they are."""
    mariadb = request.param == "mariadb"
    with (
        MariadbCluster(replicas=2, synchronous=False)
        if mariadb
        else PostgresCluster(standbys=2, synchronous=False, binaries="system")
    ) as cluster:
        engine = create_engine(cluster.url())
        with engine.begin() as conn:
            conn.execute(text("CREATE TABLE notes (id int PRIMARY KEY)"))
        engine.dispose()
        yield cluster


def followers(cluster: Cluster) -> tuple[PostgresNode | MariadbNode, ...]:
    return cluster.standbys if isinstance(cluster, PostgresCluster) else cluster.replicas


def at(cluster: Cluster, node: PostgresNode | MariadbNode) -> str:
    primary: PostgresNode | MariadbNode = cluster.primary
    return cluster.url().replace(primary.address, node.address)


def where(bind: Engine | AsyncEngine) -> Any:
    postgresql = bind.dialect.name == "postgresql"
    return text("SELECT host(inet_server_addr())" if postgresql else "SELECT @@bind_address")


class Sessions:
    """A routing factory, driven from async tests on either kind of engine."""

    def __init__(self, writer: Database, reader: Database, **options: Any) -> None:
        self.is_async = writer.is_async
        binds: dict[str, Any] = {"writer": writer.bind, "reader": reader.bind}
        self.factory: Any = routing_sessionmaker(**binds, **options)

    async def ask(self, statement: Any, *, read_only: bool) -> Any:
        """Return the one value of `statement`, asked in a transaction."""
        answer = None
        if self.is_async:
            async for tx in transaction(self.factory, read_only=read_only):
                async with tx as session:
                    answer = (await session.execute(statement)).scalar()
            return answer
        for tx in transaction(self.factory, read_only=read_only):
            with tx as session:
                answer = session.execute(statement).scalar()
        return answer

    async def write(self, number: int) -> None:
        insert = text(f"INSERT INTO notes VALUES ({number})")
        if self.is_async:
            async for tx in transaction(self.factory):
                async with tx as session:
                    await session.execute(insert)
            return
        for tx in transaction(self.factory):
            with tx as session:
                session.execute(insert)


def test_connections_are_shared_out_among_the_readers(trio: Cluster, dns_server: DnsServer) -> None:
    nodes = followers(trio)
    dns_server.set(READER, "A", [node.address for node in nodes], ttl=60)
    url = at(trio, nodes[0]).replace(nodes[0].address, READER)
    engine = create_engine(
        url, endpoint="reader", resolver=Resolver([dns_server.endpoint]), pool_size=20
    )
    connections = [engine.connect() for _ in range(20)]
    met = Counter(conn.scalar(where(engine)) for conn in connections)
    for conn in connections:
        conn.close()
    engine.dispose()
    assert set(met) == {node.address for node in nodes}
    assert min(met.values()) >= 2  # one in 50,000 runs has less by chance


def test_a_reader_that_is_away_or_stopped_is_passed_over(trio: Cluster) -> None:
    silent, living = followers(trio)
    url = at(trio, living).replace(f"{living.address}:{living.port}", "")
    url += f"?host={silent.address}:{silent.port}&host={living.address}:{living.port}"
    engine = create_engine(url, endpoint="reader")
    silent.stop_process()
    try:
        for _ in range(8):
            with engine.connect() as conn:
                assert conn.scalar(where(engine)) == living.address
                conn.invalidate()
    finally:
        silent.resume_process()
    engine.dispose()


def test_without_a_reader_the_writer_is_asked_where_that_is_said(
    trio: Cluster, dns_server: DnsServer
) -> None:
    primary: PostgresNode | MariadbNode = trio.primary
    gone = "127.0.0.77"
    dns_server.set(READER, "A", [gone], ttl=60)
    profile = replace(PROFILES["reader"], fallback=primary.address)
    url = trio.url().replace(primary.address, READER)
    engine = create_engine(url, endpoint=profile, resolver=Resolver([dns_server.endpoint]))
    with engine.connect() as conn:
        assert conn.scalar(where(engine)) == primary.address
    engine.dispose()


async def test_read_only_transactions_go_to_the_reader(opened: Opened, trio: Cluster) -> None:
    reader = followers(trio)[0]
    writer: PostgresNode | MariadbNode = trio.primary
    sessions = Sessions(opened(trio.url()), opened(at(trio, reader), endpoint="reader"))
    asked = where(sessions.factory.kw["bind"])
    assert await sessions.ask(asked, read_only=True) == reader.address
    assert await sessions.ask(asked, read_only=False) == writer.address


async def test_without_a_reader_they_go_to_the_writer(opened: Opened, trio: Cluster) -> None:
    writer: PostgresNode | MariadbNode = trio.primary
    nowhere = trio.url().replace(writer.address, "127.0.0.77")
    sessions = Sessions(opened(trio.url()), opened(nowhere, endpoint="reader"))
    assert await sessions.ask(where(sessions.factory.kw["bind"]), read_only=True) == writer.address


async def test_what_was_just_written_is_read(opened: Opened, trio: Cluster) -> None:
    """Many times over, since a reader without waiting would often be as fast."""
    reader = followers(trio)[0]
    writer_db, reader_db = opened(trio.url()), opened(at(trio, reader), endpoint="reader")
    sessions = Sessions(writer_db, reader_db, read_your_writes=5.0)
    base = 1_000 if sessions.is_async else 2_000
    for number in range(base, base + 30):
        await sessions.write(number)
        seen = text(f"SELECT count(*) FROM notes WHERE id = {number}")
        assert await sessions.ask(seen, read_only=True) == 1


async def test_a_reader_that_lags_is_not_waited_for_longer(opened: Opened, trio: Cluster) -> None:
    reader = followers(trio)[0]
    writer: PostgresNode | MariadbNode = trio.primary
    sessions = Sessions(
        opened(trio.url()), opened(at(trio, reader), endpoint="reader"), read_your_writes=0.3
    )
    pause, go_on = (
        ("SELECT pg_wal_replay_pause()", "SELECT pg_wal_replay_resume()")
        if isinstance(reader, PostgresNode)
        else ("STOP SLAVE SQL_THREAD", "START SLAVE SQL_THREAD")
    )
    await asyncio.to_thread(administer, reader, pause)
    try:
        await sessions.write(3_000 + sessions.is_async)
        asked = where(sessions.factory.kw["bind"])
        assert await sessions.ask(asked, read_only=True) == writer.address
    finally:
        await asyncio.to_thread(administer, reader, go_on)


def test_a_commit_stands_when_the_writer_is_lost_right_after_it(trio: Cluster) -> None:
    """Nobody knows then what a reader must have, so that the writer is read from."""
    reader, primary = followers(trio)[0], trio.primary
    with FaultProxy(primary.address, primary.port) as proxy:
        url = trio.url().replace(f"{primary.address}:{primary.port}", f"{proxy.host}:{proxy.port}")
        engines = create_engine(url), create_engine(at(trio, reader), endpoint="reader")
        factory = routing_sessionmaker(writer=engines[0], reader=engines[1], read_your_writes=5.0)
        runs = 0
        for tx in transaction(factory):
            with tx as session:
                runs += 1
                session.execute(text("INSERT INTO notes VALUES (4000)"))
                event.listen(session, "after_commit", lambda _: proxy.reset())
        proxy.heal()
        for tx in transaction(factory, read_only=True):
            with tx as session:
                assert session.scalar(where(engines[0])) == primary.address
                assert session.scalar(text("SELECT count(*) FROM notes WHERE id = 4000")) == 1
        for engine in engines:
            engine.dispose()
    assert runs == 1


async def test_a_reader_that_is_away_is_waited_for_once(opened: Opened, trio: Cluster) -> None:
    writer: PostgresNode | MariadbNode = trio.primary
    nowhere = trio.url().replace(writer.address, "127.0.0.77")
    sessions = Sessions(opened(trio.url()), opened(nowhere, endpoint="reader"))
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    for _ in range(3):
        await sessions.ask(text("SELECT 1"), read_only=True)
    unsubscribe()
    assert sum(isinstance(record, events.DeadlineExceeded) for record in seen) <= 2


@pytest.mark.parametrize("end", ["close", "reset", "invalidate"])
def test_however_a_session_ends_its_connection_is_given_back(trio: Cluster, end: str) -> None:
    writer = create_engine(trio.url())
    reader = create_engine(at(trio, followers(trio)[0]), endpoint="reader")
    session = routing_sessionmaker(writer=writer, reader=reader)(read_only=True)
    session.execute(text("SELECT 1"))
    getattr(session, end)()
    assert reader.pool.checkedout() == 0  # type: ignore[attr-defined]
    for engine in (writer, reader):
        engine.dispose()


def administer(node: PostgresNode | MariadbNode, statement: str) -> None:
    if isinstance(node, MariadbNode):
        node.query(statement)
        return
    engine = create_engine(node.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize("whose", ["endpoint", "engine"])
def test_a_write_where_none_is_taken_is_told_at_once(trio: Cluster, whose: str) -> None:
    node = followers(trio)[0]
    if whose == "endpoint":
        engine = create_engine(at(trio, node), endpoint="reader")
    else:
        option = "read_only" if isinstance(trio, MariadbCluster) else "postgresql_readonly"
        engine = create_engine(at(trio, node), execution_options={option: True})
    runs = 0
    with pytest.raises(DBAPIError):
        for tx in transaction(engine):
            with tx as conn:
                runs += 1
                conn.execute(text("INSERT INTO notes VALUES (5000)"))
    engine.dispose()
    assert runs == 1


def test_engines_that_do_not_go_together_are_refused() -> None:
    engine = create_engine("postgresql+psycopg://app@127.0.0.1/app")
    with pytest.raises(ConfigError, match="two Engines"):
        routing_sessionmaker(writer=engine, reader=None)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="read_your_writes"):
        routing_sessionmaker(writer=engine, reader=engine, read_your_writes=-1)
