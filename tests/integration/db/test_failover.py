"""Finding the writer: by several hosts, by a topology, past servers that only look alive."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from datakit import events
from datakit.db.endpoint import PROFILES
from datakit.testing import (
    DnsServer,
    MariadbCluster,
    MariadbNode,
    PostgresCluster,
    PostgresNode,
)

from .conftest import Database

Cluster = PostgresCluster | MariadbCluster
Opened = Callable[..., Database]
CLUSTER = "shop.cluster-c1abcdefghij.eu-west-1.rds.amazonaws.com"
INSTANCES = "{}.c1abcdefghij.eu-west-1.rds.amazonaws.com"


@pytest.fixture(params=["postgresql", "mariadb"])
def pair(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A primary with one synchronous follower."""
    mariadb = request.param == "mariadb"
    with MariadbCluster() if mariadb else PostgresCluster(binaries="system") as cluster:
        yield cluster


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    records: list[events.Event] = []
    unsubscribe = events.subscribe(records.append)
    yield records
    unsubscribe()


def of(seen: list[events.Event], kind: type[events.Event]) -> list[Any]:
    return [record for record in seen if isinstance(record, kind)]


def several_hosts(cluster: Cluster, *, follower_first: bool = False) -> str:
    nodes: list[PostgresNode | MariadbNode] = [*cluster.nodes]
    if follower_first:
        nodes.reverse()
    hosts = "&".join(f"host={node.address}:{node.port}" for node in nodes)
    node: PostgresNode | MariadbNode = cluster.primary
    return cluster.url().replace(f"{node.address}:{node.port}", "") + f"?{hosts}"


async def promoted(cluster: Cluster) -> PostgresNode | MariadbNode:
    return await asyncio.to_thread(lambda: cluster.promote())


def create(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE orders (id int PRIMARY KEY)"))


def insert(number: int) -> Callable[[Connection], object]:
    return lambda conn: conn.execute(text("INSERT INTO orders VALUES (:id)"), {"id": number})


async def test_the_writer_is_found_wherever_it_stands_in_the_url(
    opened: Opened, pair: Cluster
) -> None:
    database = opened(several_hosts(pair, follower_first=True))
    await database.transact(create)
    await database.transact(insert(1))
    assert await database.scalar("SELECT count(*) FROM orders") == 1


async def test_after_a_failover_the_other_host_is_the_writer(
    opened: Opened, pair: Cluster, seen: list[events.Event]
) -> None:
    database = opened(several_hosts(pair))
    await database.transact(create)
    old: PostgresNode | MariadbNode = pair.primary
    old.kill()
    writing = asyncio.create_task(database.transact(insert(1)))
    new = await promoted(pair)
    await writing
    assert await database.scalar("SELECT count(*) FROM orders") == 1
    assert [record.address for record in of(seen, events.FailoverStarted)] == [old.address]
    assert [record.address for record in of(seen, events.WriterFound)] == [new.address]
    (ended,) = of(seen, events.FailoverEnded)
    assert ended.duration > 0
    assert ended.attempts >= 1


async def test_a_demoted_primary_that_still_answers_is_not_handed_out(
    opened: Opened, pair: Cluster
) -> None:
    database = opened(several_hosts(pair), pool_size=3)
    await database.transact(create)
    old = pair.primary
    old.set_read_only()
    await promoted(pair)
    for number in range(5):
        await database.transact(insert(number))
    where = "SELECT pg_is_in_recovery()::int + current_setting('transaction_read_only')::bool::int"
    if isinstance(pair, MariadbCluster):
        where = "SELECT @@read_only"
    assert {await database.scalar(where) for _ in range(6)} == {0}


async def test_a_stopped_primary_is_left_inside_a_statement(opened: Opened, pair: Cluster) -> None:
    """The kernel goes on acknowledging for it: without asking, the statement would never end."""
    database = opened(several_hosts(pair))
    await database.transact(create)
    old = pair.primary
    runs: list[int] = []
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def body(conn: Connection) -> None:
        runs.append(1)
        if len(runs) == 1:
            old.stop_process()
            loop.call_soon_threadsafe(stopped.set)
        insert(len(runs))(conn)

    writing = asyncio.create_task(database.transact(body))
    await stopped.wait()
    await promoted(pair)
    await writing
    assert len(runs) == 2
    assert await database.scalar("SELECT count(*) FROM orders WHERE id = 2") == 1


async def test_a_long_statement_on_a_living_server_is_left_alone(
    opened: Opened, pair: Cluster
) -> None:
    profile = replace(PROFILES["generic"], silence=0.2)
    database = opened(pair.url(), endpoint=profile)
    sleep = "SELECT pg_sleep(1.5)" if isinstance(pair, PostgresCluster) else "SELECT sleep(1.5)"
    await database.scalar(sleep)
    assert await database.scalar("SELECT 7") == 7


async def test_a_stopped_server_without_another_is_the_drivers_error(
    opened: Opened, pair: Cluster
) -> None:
    profile = replace(PROFILES["generic"], silence=0.2)
    database = opened(pair.url(), endpoint=profile)
    await database.scalar("SELECT 1")
    pair.primary.stop_process()
    try:
        with pytest.raises(OperationalError, match="is silent"):
            await database.scalar("SELECT 2")
    finally:
        pair.primary.resume_process()
    assert await database.scalar("SELECT 3") == 3


async def test_only_the_connections_that_are_lost_are_dropped(
    opened: Opened, pair: Cluster
) -> None:
    database = opened(pair.url(), pool_size=3)
    own_id = "pg_backend_pid()" if isinstance(pair, PostgresCluster) else "connection_id()"
    killed: list[int] = []
    kept: list[int] = []

    def in_two(conn: Connection) -> None:
        engine = conn.engine
        with engine.connect() as first, engine.connect() as second:
            kept.append(first.scalar(text(f"SELECT {own_id}")))
            killed.append(second.scalar(text(f"SELECT {own_id}")))

    def again(conn: Connection) -> None:
        engine = conn.engine
        with engine.connect() as first, engine.connect() as second:
            ids = {
                conn.scalar(text(f"SELECT {own_id}")),
                *(each.scalar(text(f"SELECT {own_id}")) for each in (first, second)),
            }
        kept.extend(ids)

    await database.transact(in_two)
    if isinstance(pair, MariadbCluster):
        pair.primary.query(f"KILL {killed[0]}")
    else:
        await opened(pair.url()).scalar(f"SELECT pg_terminate_backend({killed[0]})")
    await asyncio.sleep(0.2)
    await database.transact(again)
    assert killed[0] not in kept
    assert kept[0] in kept[1:]


class TestAurora:
    """A cluster that knows its members, and a record that lags behind the failover."""

    @pytest.fixture
    def aurora(self, cluster: PostgresCluster, dns_server: DnsServer) -> PostgresCluster:
        for name, node in cluster.imitate_aurora().items():
            dns_server.set(INSTANCES.format(name), "A", [node.address], ttl=5)
        dns_server.set(CLUSTER, "A", [cluster.primary.address], ttl=1)
        return cluster

    @pytest.fixture
    def database(self, aurora: PostgresCluster, dns_server: DnsServer, opened: Opened) -> Database:
        url = aurora.url().replace(aurora.primary.address, CLUSTER)
        return opened(url, servers=[dns_server.endpoint])

    @pytest.mark.parametrize("fault", ["kill", "stop_process", "set_read_only"])
    async def test_the_new_writer_is_found_while_the_record_leads_to_the_old(
        self, fault: str, aurora: PostgresCluster, database: Database, seen: list[events.Event]
    ) -> None:
        await database.transact(create)
        new = aurora.standbys[0]
        getattr(aurora.primary, fault)()
        writing = asyncio.create_task(database.transact(insert(1)))
        await asyncio.to_thread(aurora.promote)
        await writing
        assert await database.scalar("SELECT count(*) FROM orders") == 1
        found = of(seen, events.WriterFound)
        assert [(record.name, record.address) for record in found] == [
            (INSTANCES.format("inst-2"), new.address)
        ]

    async def test_a_failover_between_two_transactions_costs_no_error(
        self, aurora: PostgresCluster, database: Database
    ) -> None:
        await database.transact(create)
        old = aurora.primary
        old.kill()
        await asyncio.to_thread(aurora.promote)
        await database.transact(insert(1))


async def test_a_cluster_that_does_not_tell_its_members_is_used_all_the_same(
    opened: Opened, cluster: PostgresCluster
) -> None:
    """A statement that hangs costs a second connection, not the deadline."""
    admin = opened(cluster.url().replace("app@", "postgres@"))
    hangs = (
        "CREATE FUNCTION pg_catalog.aurora_replica_status(OUT server_id text, OUT session_id text,"
        " OUT last_update_timestamp timestamptz) RETURNS SETOF record LANGUAGE sql"
        " AS $$ SELECT '', '', now() FROM pg_sleep(60) $$"
    )

    def define(conn: Connection) -> None:
        conn.execute(text("SET LOCAL allow_system_table_mods = on"))
        conn.execute(text(hangs))

    await admin.transact(define)
    endpoint = replace(PROFILES["cluster"], instances="?.db.internal", deadline=15.0)
    database = opened(cluster.url(), endpoint=endpoint)
    await database.transact(create)
    assert await database.scalar("SELECT count(*) FROM orders") == 0


def test_hosts_of_a_url_are_shown(pair: Cluster) -> None:
    from datakit import create_engine
    from datakit.db import describe

    engine = create_engine(several_hosts(pair))
    shown = describe(engine)
    assert all(f"{node.address}:{node.port}" in shown for node in pair.nodes)
    assert engine.url.host == pair.nodes[0].address
