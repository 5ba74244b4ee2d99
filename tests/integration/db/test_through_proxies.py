"""Engines through PgBouncer and HAProxy, as through RDS Proxy and a network load balancer."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from tests.integration.proxies import HAProxy, PgBouncer

from datakit.db import describe
from datakit.testing import MariadbServer, PostgresNode

from .conftest import Database

Opened = Callable[..., Database]


@pytest.fixture
def bouncer(postgres: PostgresNode) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode."""
    with PgBouncer(postgres) as bouncer:
        yield bouncer


async def test_the_proxy_profile_works_through_transaction_pooling(
    opened: Opened, bouncer: PgBouncer
) -> None:
    """No prepared statement outlives its transaction: each may be on another backend."""
    database = opened(bouncer.url(), endpoint="proxy", pool_size=5)
    statement = "SELECT count(*) FROM generate_series(1, 3)"
    found = await asyncio.gather(*(database.scalar(statement) for _ in range(100)))
    assert found == [3] * 100
    assert "endpoint: proxy" in describe(database.bind)
    assert await database.scalar("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_a_proxy_that_restarts_is_waited_for(opened: Opened, bouncer: PgBouncer) -> None:
    database = opened(bouncer.url(), endpoint="proxy")
    await database.scalar("SELECT 1")
    bouncer.kill()
    waiting = asyncio.create_task(
        database.transact(lambda conn: conn.execute(text("SELECT 1")).scalar())
    )
    await asyncio.sleep(0.3)
    await asyncio.to_thread(bouncer.restart)
    await waiting


async def test_haproxy_moves_to_the_server_that_is_left(opened: Opened) -> None:
    with MariadbServer() as first, MariadbServer() as second, HAProxy([first, second]) as haproxy:
        url = first.url().replace(f":{first.port}/", f":{haproxy.port}/")
        url = url.replace(first.address, haproxy.address)
        database = opened(url)
        assert await database.scalar("SELECT @@port") == first.port
        first.kill()
        ports: list[int] = []
        await database.transact(lambda conn: ports.append(conn.scalar(text("SELECT @@port"))))
        assert ports[-1] == second.port
