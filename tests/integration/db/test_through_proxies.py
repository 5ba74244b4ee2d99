"""Engines through PgBouncer and HAProxy, as through RDS Proxy and a network load balancer."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, event, text
from tests.integration.proxies import HAProxy, PgBouncer

from datakit.db import describe, exactly_once
from datakit.db.sync_engine import sync_engine
from datakit.testing import FaultProxy, MariadbServer, PostgresNode

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


@pytest.mark.parametrize("came", [True, False])
async def test_a_token_settles_a_lost_commit_behind_transaction_pooling(
    opened: Opened, postgres: PostgresNode, bouncer: PgBouncer, came: bool
) -> None:
    """The question may go to another backend than the COMMIT."""
    with FaultProxy(bouncer.address, bouncer.port) as proxy:
        url = bouncer.url().replace(f":{bouncer.port}/", f":{proxy.port}/")
        database = opened(url.replace(bouncer.address, proxy.host), endpoint="proxy")

        def prepare(conn: Connection) -> None:
            exactly_once.TABLE.create(conn, checkfirst=True)
            conn.execute(text("CREATE TABLE once (run int)"))

        def cut(conn: Connection) -> None:
            proxy.reset()
            proxy.heal()

        runs = 0

        def body(conn: Connection) -> None:
            nonlocal runs
            runs += 1
            conn.execute(text("INSERT INTO once VALUES (:run)"), {"run": runs})
            if runs == 1 and came:
                proxy.drop_reply(b"COMMIT", times=1)
            elif runs == 1:
                event.listen(sync_engine(database.bind), "commit", cut, once=True)

        await database.transact(prepare)
        await database.transact(body, exactly_once=True)
        kept: list[int] = []
        await database.transact(lambda conn: kept.extend(conn.scalars(text("SELECT * FROM once"))))
        await database.transact(lambda conn: conn.execute(text("DROP TABLE once")))
        assert kept == [runs] == [1 if came else 2]


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
