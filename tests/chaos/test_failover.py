"""A primary killed under eight writers: no error seen, nothing lost, nothing twice.

The control lane, SQLAlchemy with pre_ping, must show the damage over the same seconds, so that
a pass means something.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy import create_engine as plain_create_engine
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import (
    AsyncResolver,
    Resolver,
    create_async_engine,
    create_engine,
    transaction,
)
from datakit.errors import CommitUnknownError
from datakit.testing import DnsServer, PostgresCluster

NAME = "db.shop.internal"
WRITERS = 8

CREATE = (
    "CREATE TABLE orders (lane text, id int, PRIMARY KEY (lane, id))",
    "CREATE TABLE payments (lane text, id int)",
)
INSERT_ORDER = text("INSERT INTO orders VALUES (:lane, :id) ON CONFLICT DO NOTHING")
INSERT_PAYMENT = text("INSERT INTO payments VALUES (:lane, :id)")

Write = Callable[[int], Awaitable[None]]


class Lane:
    """Eight writers of one kind, what was acknowledged to them, and what they saw fail."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.ids = count(1)
        self.acknowledged: list[int] = []
        self.errors: list[Exception] = []

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._writer(stop))

    async def _writer(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            order = next(self.ids)
            try:
                await self.write(order)
                self.acknowledged.append(order)
            except Exception as exc:  # noqa: BLE001 - counted
                self.errors.append(exc)
            await asyncio.sleep(0.005)


def place(conn: Connection, lane: str, order: int) -> None:
    row = {"lane": lane, "id": order}
    if conn.execute(INSERT_ORDER, row).rowcount:
        conn.execute(INSERT_PAYMENT, row)


def place_blindly(conn: Connection, lane: str, order: int) -> None:
    """Write a payment that a second run would double."""
    conn.execute(INSERT_PAYMENT, {"lane": lane, "id": order})


def sync_lane(
    engine: Engine, body: Callable[[Connection, str, int], None], idempotent: bool
) -> Lane:
    def write(order: int) -> None:
        for tx in transaction(engine, idempotent=idempotent):
            with tx as conn:
                body(conn, "sync", order)

    return Lane(lambda order: asyncio.to_thread(write, order))


def async_lane(
    engine: AsyncEngine, body: Callable[[Connection, str, int], None], idempotent: bool
) -> Lane:
    async def write(order: int) -> None:
        async for tx in transaction(engine, idempotent=idempotent):
            async with tx as conn:
                await conn.run_sync(body, "async", order)

    return Lane(write)


def control_lane(engines: dict[str, Engine], current: Callable[[], str]) -> Lane:
    def write(order: int) -> None:
        with engines[current()].begin() as conn:
            place(conn, "control", order)

    return Lane(lambda order: asyncio.to_thread(write, order))


async def fail_over(cluster: PostgresCluster, dns: DnsServer, lanes: list[Lane]) -> None:
    stop = asyncio.Event()
    running = asyncio.gather(*(lane.run(stop) for lane in lanes))
    await asyncio.sleep(1)
    await asyncio.to_thread(cluster.primary.kill)
    await asyncio.sleep(0.5)
    new = await asyncio.to_thread(cluster.promote)
    dns.set(NAME, "A", [new.address], ttl=1)
    await asyncio.sleep(1.5)
    stop.set()
    await running


@pytest.fixture(autouse=True)
async def _a_thread_for_everybody() -> None:
    """The default pool has six threads on two cores: waiting writers would block the promotion."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3 * WRITERS + 4))


@pytest.mark.parametrize("idempotent", [True, False])
async def test_the_primary_is_killed_under_load(
    cluster: PostgresCluster, dns_server: DnsServer, idempotent: bool
) -> None:
    dns_server.set(NAME, "A", [cluster.primary.address], ttl=1)
    url = cluster.url().replace(cluster.primary.address, NAME)
    engine = create_engine(url, resolver=Resolver([dns_server.endpoint]))
    aengine = create_async_engine(url, resolver=AsyncResolver([dns_server.endpoint]))
    control_engines = {
        node.address: plain_create_engine(node.url(), pool_pre_ping=True) for node in cluster.nodes
    }
    with engine.begin() as conn:
        for statement in CREATE:
            conn.execute(text(statement))

    body = place if idempotent else place_blindly
    lanes = {
        "sync": sync_lane(engine, body, idempotent),
        "async": async_lane(aengine, body, idempotent),
        "control": control_lane(control_engines, lambda: cluster.primary.address),
    }
    await fail_over(cluster, dns_server, list(lanes.values()))

    with engine.connect() as conn:
        found = conn.execute(text("SELECT lane, id FROM payments")).all()
    payments = Counter((lane, order) for lane, order in found)
    for name in ("sync", "async"):
        lane = lanes[name]
        assert len(lane.acknowledged) > 100
        lost = [order for order in lane.acknowledged if (name, order) not in payments]
        doubled = [key for key, times in payments.items() if key[0] == name and times > 1]
        unexpected = [e for e in lane.errors if idempotent or not isinstance(e, CommitUnknownError)]
        assert (unexpected, lost, doubled) == ([], [], [])
    assert lanes["control"].errors

    engine.dispose()
    await aengine.dispose()
    for control in control_engines.values():
        control.dispose()


async def test_a_stopped_primary_is_no_error_once_it_is_fenced(
    cluster: PostgresCluster, dns_server: DnsServer
) -> None:
    """SIGSTOP leaves links open and silent; killing the old primary frees whoever waits."""
    dns_server.set(NAME, "A", [cluster.primary.address], ttl=1)
    url = cluster.url().replace(cluster.primary.address, NAME)
    engine = create_engine(url, resolver=Resolver([dns_server.endpoint]))
    with engine.begin() as conn:
        for statement in CREATE:
            conn.execute(text(statement))
    lane = sync_lane(engine, place, idempotent=True)
    stop = asyncio.Event()
    running = asyncio.create_task(lane.run(stop))
    await asyncio.sleep(0.5)
    old = cluster.primary
    old.stop_process()
    await asyncio.sleep(0.5)
    old.kill()
    new = await asyncio.to_thread(cluster.promote)
    dns_server.set(NAME, "A", [new.address], ttl=1)
    written = len(lane.acknowledged)
    await asyncio.sleep(1.5)
    stop.set()
    await running
    with engine.connect() as conn:
        kept = set(conn.scalars(text("SELECT id FROM payments")))
    engine.dispose()
    assert lane.errors == []
    assert set(lane.acknowledged) <= kept
    assert len(lane.acknowledged) >= written + 50
