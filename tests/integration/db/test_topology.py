"""What real servers answer when they are asked for their cluster: as RDS's do, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit.db.topology import Member, Topology
from datakit.testing import MariadbServer, PostgresNode

from .conftest import Database

Server = PostgresNode | MariadbServer
SOURCE = "multi_az_db_cluster_source_dbi_resource_id"

POSTGRES_CLUSTER = (
    "CREATE SCHEMA rds_tools",
    "CREATE FUNCTION rds_tools.show_topology(text, OUT id text, OUT endpoint text, OUT port int)"
    " RETURNS SETOF record LANGUAGE sql AS"
    " $$VALUES ('db-A', 'shop-1.abc.eu-west-1.rds.amazonaws.com', 5432),"
    " ('db-B', 'shop-2.abc.eu-west-1.rds.amazonaws.com', 5433)$$",
    f"CREATE FUNCTION rds_tools.{SOURCE}(OUT {SOURCE} text) RETURNS SETOF text LANGUAGE sql AS"
    " $$VALUES ('db-B')$$",
)
MARIADB_CLUSTER = (
    "CREATE TABLE mysql.rds_topology (id text, endpoint text, port int)",
    "INSERT INTO mysql.rds_topology VALUES ('db-A', 'shop-1.abc.eu-west-1.rds.amazonaws.com', 3306)"
    ", ('db-B', 'shop-2.abc.eu-west-1.rds.amazonaws.com', 3307)",
    "GRANT SELECT ON mysql.rds_topology TO app",
)
POSTGRES_SLOW = (
    "CREATE FUNCTION aurora_replica_status(OUT server_id text, OUT session_id text,"
    " OUT last_update_timestamp timestamptz) RETURNS SETOF record LANGUAGE sql"
    " AS $$SELECT pg_sleep(30)::text, '', now()$$",
)
POSTGRES_QUICK = (
    "CREATE OR REPLACE FUNCTION aurora_replica_status(OUT server_id text, OUT session_id text,"
    " OUT last_update_timestamp timestamptz) RETURNS SETOF record LANGUAGE sql"
    " AS $$VALUES ('shop-1', 'MASTER_SESSION_ID', now())$$",
)
MARIADB_SLOW = (
    "CREATE VIEW mysql.rds_topology AS SELECT sleep(30) AS endpoint, 3306 AS port",
    "GRANT SELECT ON mysql.rds_topology TO app",
)
MARIADB_QUICK = (
    "CREATE OR REPLACE VIEW mysql.rds_topology AS SELECT 'shop-1.db.internal' AS endpoint,"
    " 3306 AS port",
)


@pytest.fixture
async def database(opened: Callable[..., Database], server: Server) -> AsyncIterator[Database]:
    database = opened(server.url())
    yield database
    if isinstance(server, MariadbServer):
        server.query("DROP TABLE IF EXISTS mysql.rds_topology")
        server.query("DROP VIEW IF EXISTS mysql.rds_topology")
    else:
        await prepare(
            database,
            server,
            "DROP SCHEMA IF EXISTS rds_tools CASCADE",
            "DROP FUNCTION IF EXISTS aurora_replica_status()",
        )


async def prepare(database: Database, server: Server, *statements: str) -> None:
    for statement in statements:
        if isinstance(server, MariadbServer):
            server.query(statement)  # by the superuser, whose schema it is
        else:
            await database.transact(partial(Connection.exec_driver_sql, statement=statement))


async def ask(database: Database, topology: Topology, before: str = "SELECT 1") -> Any:
    """Return what the server answers; before: sent to it first."""

    def body(conn: Connection) -> tuple[Member, ...]:
        conn.exec_driver_sql(before)
        conn.commit()
        connection = conn.connection.dbapi_connection
        assert connection is not None
        return topology.ask(conn.dialect, connection)

    if isinstance(database.bind, AsyncEngine):
        async with database.bind.connect() as conn:
            return await conn.run_sync(body)

    def work(engine: Engine) -> tuple[Member, ...]:
        with engine.connect() as conn:
            return body(conn)

    return await asyncio.to_thread(work, database.bind)


async def test_the_members_of_a_multi_az_cluster(database: Database, server: Server) -> None:
    is_mariadb = isinstance(server, MariadbServer)
    await prepare(database, server, *(MARIADB_CLUSTER if is_mariadb else POSTGRES_CLUSTER))
    first, second = (f"shop-{number}.abc.eu-west-1.rds.amazonaws.com" for number in (1, 2))
    expected = (
        (Member(first, False, 3306), Member(second, False, 3307))  # it does not tell the writer
        if is_mariadb
        else (Member(second, True, 5433), Member(first, False, 5432))
    )
    for template in (None, "?.abc.eu-west-1.rds.amazonaws.com"):
        assert await ask(database, Topology(template)) == expected


async def test_a_server_that_knows_no_topology_is_asked_once(
    database: Database, server: Server
) -> None:
    topology = Topology("?.db.internal")
    assert await ask(database, topology) == ()
    await prepare(
        database,
        server,
        *(MARIADB_CLUSTER if isinstance(server, MariadbServer) else POSTGRES_CLUSTER),
    )
    assert await ask(database, topology) == ()


async def test_a_server_that_was_too_slow_once_is_asked_again(
    database: Database, server: Server
) -> None:
    is_mariadb = isinstance(server, MariadbServer)
    topology = Topology("?.db.internal")
    await prepare(database, server, *(MARIADB_SLOW if is_mariadb else POSTGRES_SLOW))
    short = "SET max_statement_time = 0.2" if is_mariadb else "SET statement_timeout = 200"
    assert await ask(database, topology, short) == ()
    await prepare(database, server, *(MARIADB_QUICK if is_mariadb else POSTGRES_QUICK))
    port = 3306 if is_mariadb else None
    assert await ask(database, topology) == (Member("shop-1.db.internal", not is_mariadb, port),)
