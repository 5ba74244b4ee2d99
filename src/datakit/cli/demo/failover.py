"""The scene of the failover: two lanes of writers over the same seconds."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event
from typing import Any

import dns.resolver
import sqlalchemy
from sqlalchemy import Connection, Engine, event, text

from datakit import transaction
from datakit.cli.demo.figures import Call, FailoverFigures, LaneFigures, lane_figures
from datakit.cli.demo.shop import NAME, Shop

WRITERS = 4
PACE = 0.005
"""Seconds between the starts of two writes of one writer, when they are that fast."""

SECONDS_BEFORE = 1.5
SECONDS_UNNOTICED = 1.0
"""Between the kill and the promotion: whoever decides on a failover must notice first."""

SECONDS_AFTER = 3.0

INSERT_ORDER = text("INSERT INTO orders VALUES (:lane, :id) ON CONFLICT DO NOTHING")
INSERT_PAYMENT = text("INSERT INTO payments VALUES (:lane, :id, 9.90)")


def place_order(conn: Connection, lane: str, order: int) -> None:
    """Write an order and its payment once, however often it is called."""
    row = {"lane": lane, "id": order}
    if conn.execute(INSERT_ORDER, row).rowcount:
        conn.execute(INSERT_PAYMENT, row)


def write_with_datakit(engine: Engine, order: int) -> None:
    """Place an order in datakit's transaction; its key makes it safe to run twice."""
    for tx in transaction(engine, idempotent=True):
        with tx as conn:
            place_order(conn, "datakit", order)


def write_plainly(engine: Engine, order: int) -> None:
    """Place an order as SQLAlchemy's tutorial does."""
    with engine.begin() as conn:
        place_order(conn, "control", order)


def control_engine(shop: Shop) -> Engine:
    """Return SQLAlchemy's engine with pre_ping, the name resolved anew for every connection.

    That is the best case for it: no answer is ever out of date.
    """
    stub = dns.resolver.Resolver(configure=False)
    stub.nameservers = ["127.0.0.1"]
    stub.port = shop.dns.port
    engine = sqlalchemy.create_engine(shop.url, pool_pre_ping=True, pool_size=WRITERS)

    @event.listens_for(engine, "do_connect")
    def resolve(dialect: object, record: object, cargs: object, cparams: dict[str, Any]) -> None:
        cparams["hostaddr"] = next(iter(stub.resolve(NAME, "A"))).to_text()

    return engine


class Lane:
    """Writers that place order after order until they are stopped."""

    def __init__(self, engine: Engine, write: Callable[[Engine, int], None]) -> None:
        self.calls: list[Call] = []
        self.engine = engine
        self._write = write
        self._orders = count(1)

    def run(self, started: float, stop: Event) -> None:
        """Place orders, one at a time; called by each writer's thread."""
        while not stop.is_set():
            order = next(self._orders)
            began = time.monotonic()
            try:
                self._write(self.engine, order)
                ok = True
            except Exception:  # noqa: BLE001 - the figure being shown
                ok = False
            seconds = time.monotonic() - began
            self.calls.append(Call(order, began - started, seconds, ok))
            stop.wait(PACE - seconds if seconds < PACE else 0)


def fail_over(shop: Shop) -> FailoverFigures:
    """Kill the primary under both lanes, promote the standby, change the record."""
    lanes = {
        "datakit": Lane(shop.new_engine(), write_with_datakit),
        "control": Lane(control_engine(shop), write_plainly),
    }
    stop = Event()
    started = time.monotonic()

    def since() -> float:
        return round(time.monotonic() - started, 3)

    with ThreadPoolExecutor(2 * WRITERS) as pool:
        try:
            running = [
                pool.submit(lane.run, started, stop)
                for lane in lanes.values()
                for _ in range(WRITERS)
            ]
            time.sleep(SECONDS_BEFORE)
            killed_at = since()
            shop.cluster.primary.kill()
            time.sleep(SECONDS_UNNOTICED)
            new = shop.cluster.promote()
            promoted_at = since()
            shop.point_to(new.address, ttl=1)
            changed_at = since()
            time.sleep(SECONDS_AFTER)
        finally:
            stop.set()
        for writer in running:
            writer.result()
    for lane in lanes.values():
        lane.engine.dispose()
    return FailoverFigures(
        datakit=_judge(shop, "datakit", lanes["datakit"]),
        control=_judge(shop, "control", lanes["control"]),
        killed_at=killed_at,
        promoted_at=promoted_at,
        record_changed_at=changed_at,
        calls={name: lane.calls for name, lane in lanes.items()},
    )


def _judge(shop: Shop, name: str, lane: Lane) -> LaneFigures:
    with shop.engine.connect() as conn:
        orders = conn.scalars(text("SELECT id FROM orders WHERE lane = :l"), {"l": name}).all()
        payments = conn.scalars(
            text("SELECT order_id FROM payments WHERE lane = :l"), {"l": name}
        ).all()
    return lane_figures(lane.calls, orders, payments)
