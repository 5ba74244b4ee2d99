"""The lanes that are compared: datakit's, and those without it."""

from typing import Any

import sqlalchemy
import tenacity
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from tests.chaos.bank import Payment, pay, pay_once
from tests.chaos.lanes import WRITERS, Lane, TaskLane, ThreadLane
from tests.chaos.ways import Way

from datakit import AsyncResolver, Resolver, create_async_engine, create_engine, transaction

SYNC, ASYNC = "datakit", "datakit asyncio"
TENACITY, PRE_PING, LIBPQ = "SQLAlchemy tenacity", "SQLAlchemy pre_ping", "libpq hosts"

IDEMPOTENT = f"{SYNC} idempotent"
CROWD: dict[str, Any] = {"writers": 200, "pace": 2.0}


class DatakitLane(ThreadLane):
    """An engine and `transaction` of datakit's."""

    claims = True

    def __init__(self, way: Way, *, once: bool, crowd: bool = False) -> None:
        super().__init__(_name(SYNC, once, crowd), **(CROWD if crowd else {}))
        self.asks = not once
        self._once = once
        self._engine = create_engine(
            way.url(way.drivers[0]),
            resolver=Resolver([way.dns]) if way.dns else None,
            endpoint=way.endpoint,
        )

    def pay(self, writer: int, payment: Payment) -> None:
        for tx in transaction(self._engine, exactly_once=self._once):
            with tx as connection:
                pay(connection, self.name, payment)

    def close(self) -> None:
        self._engine.dispose()


class IdempotentLane(DatakitLane):
    """The same with a body that may run again, on PostgreSQL."""

    def __init__(self, way: Way) -> None:
        super().__init__(way, once=False)
        self.name = IDEMPOTENT
        self.asks = False

    def pay(self, writer: int, payment: Payment) -> None:
        for tx in transaction(self._engine, idempotent=True):
            with tx as connection:
                pay_once(connection, self.name, payment)


class DatakitTaskLane(TaskLane):
    """The same for asyncio."""

    claims = True

    def __init__(self, way: Way, *, once: bool, crowd: bool = False) -> None:
        super().__init__(_name(ASYNC, once, crowd), **(CROWD if crowd else {}))
        self.asks = not once
        self._once = once
        self._engine = create_async_engine(
            way.url(way.drivers[1]),
            resolver=AsyncResolver([way.dns]) if way.dns else None,
            endpoint=way.endpoint,
        )

    async def pay(self, writer: int, payment: Payment) -> None:
        async for tx in transaction(self._engine, exactly_once=self._once):
            async with tx as connection:
                await connection.run_sync(pay, self.name, payment)

    async def aclose(self) -> None:
        await self._engine.dispose()

    def close(self) -> None:
        """Do nothing: its loop has."""


class PlainLane(ThreadLane):
    """An engine of SQLAlchemy's own."""

    def __init__(self, name: str, engine: Engine) -> None:
        super().__init__(name)
        self._engine = engine

    def pay(self, writer: int, payment: Payment) -> None:
        with self._engine.begin() as connection:
            pay(connection, self.name, payment)

    def close(self) -> None:
        self._engine.dispose()


class TenacityLane(PlainLane):
    """The same with tenacity around each payment: what one writes by hand."""

    def __init__(self, name: str, engine: Engine) -> None:
        super().__init__(name, engine)
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(DBAPIError),
            wait=tenacity.wait_random_exponential(0.05, max=1.0),
            stop=tenacity.stop_after_delay(30) | tenacity.stop_when_event_set(self._stop),
            sleep=tenacity.sleep_using_event(self._stop),
            reraise=True,
        )

    def pay(self, writer: int, payment: Payment) -> None:
        self._retrying.copy()(super().pay, writer, payment)


def _name(base: str, once: bool, crowd: bool) -> str:
    return f"{base}{' once' if once else ''}{', 200' if crowd else ''}"


def datakit_lanes(way: Way) -> list[Lane]:
    """Return datakit's four."""
    return [
        kind(way, once=once) for kind in (DatakitLane, DatakitTaskLane) for once in (True, False)
    ]


def control_lanes(way: Way) -> list[Lane]:
    """Return those that are to show the damage: pre_ping, and what is put around it or before."""
    lanes: list[Lane] = [TenacityLane(TENACITY, _following(way))]
    if way.family == "postgresql" and len(way.hosts) > 1:
        url = way.url("psycopg", target_session_attrs="read-write")
        lanes.append(PlainLane(LIBPQ, _engine(url)))
    else:
        lanes.append(PlainLane(PRE_PING, _following(way)))
    return lanes


def _following(way: Way) -> Engine:
    """Return an engine whose new connections follow the record."""
    engine = _engine(f"{way.family}+{way.drivers[0]}://app@{way.leads_to()}/app")

    @event.listens_for(engine, "do_connect")
    def follow(dialect: object, record: object, cargs: object, keywords: dict[str, Any]) -> None:
        way.follow(keywords)

    return engine


def _engine(url: str) -> Engine:
    return sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=WRITERS)
