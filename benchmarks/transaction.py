"""What a transaction of datakit costs beside `engine.begin()`: python -P benchmarks/transaction.py

The same engine, the same statement; the rounds of all contestants alternate, and each line is the
median of its rounds, so that a busy machine disturbs them alike. A PostgreSQL of its own is
started, and the cost of one round trip to it is measured in the same run.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import create_async_engine, create_engine, transaction
from datakit.db import exactly_once
from datakit.testing import PostgresCluster

ROUNDS = 60
CALLS = 25
ONE = text("INSERT INTO payments VALUES (1)")
SELECT = text("SELECT 1")


def begin(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(ONE)


def retried(engine: Engine) -> None:
    for tx in transaction(engine):
        with tx as conn:
            conn.execute(ONE)


def settled(engine: Engine) -> None:
    for tx in transaction(engine, exactly_once=True):
        with tx as conn:
            conn.execute(ONE)


async def begin_async(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(ONE)


async def retried_async(engine: AsyncEngine) -> None:
    async for tx in transaction(engine):
        async with tx as conn:
            await conn.execute(ONE)


async def settled_async(engine: AsyncEngine) -> None:
    async for tx in transaction(engine, exactly_once=True):
        async with tx as conn:
            await conn.execute(ONE)


def compare_sync(engine: Engine) -> None:
    lines: dict[str, list[float]] = {}
    with engine.connect() as conn:
        for _ in range(ROUNDS):
            note(lines, "engine.begin()", lambda: begin(engine))
            note(lines, "transaction()", lambda: retried(engine))
            note(lines, "transaction(exactly_once=True)", lambda: settled(engine))
            note(lines, "one round trip", lambda: conn.execute(SELECT))
    report("sync", lines)


def note(lines: dict[str, list[float]], name: str, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    lines.setdefault(name, []).append((time.perf_counter() - start) / CALLS * 1e6)


async def compare_async(engine: AsyncEngine) -> None:
    lines: dict[str, list[float]] = {}
    async with engine.connect() as conn:
        for _ in range(ROUNDS):
            await anote(lines, "engine.begin()", lambda: begin_async(engine))
            await anote(lines, "transaction()", lambda: retried_async(engine))
            await anote(lines, "transaction(exactly_once=True)", lambda: settled_async(engine))
            await anote(lines, "one round trip", lambda: conn.execute(SELECT))
    report("asyncio", lines)


async def anote(
    lines: dict[str, list[float]], name: str, work: Callable[[], Awaitable[object]]
) -> None:
    start = time.perf_counter()
    for _ in range(CALLS):
        await work()
    lines.setdefault(name, []).append((time.perf_counter() - start) / CALLS * 1e6)


def report(title: str, lines: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(figures) for name, figures in lines.items()}
    print(f"\na transaction of one statement, {title}")
    for name, figure in medians.items():
        ratio = figure / medians["engine.begin()"]
        print(f"  {name:<32} {figure:9.1f} µs   {ratio:5.2f} x engine.begin()")
    extra = medians["transaction(exactly_once=True)"] - medians["transaction()"]
    print(f"  the token costs {extra / medians['one round trip']:.2f} round trips")


def prepare(conn: Connection) -> None:
    conn.execute(text("CREATE TABLE payments (id int)"))


async def main() -> None:
    with PostgresCluster(standbys=0, synchronous=False) as cluster:
        engine = create_engine(cluster.url())
        with engine.begin() as conn:
            prepare(conn)
        exactly_once.create_table(engine)
        compare_sync(engine)
        engine.dispose()
        aengine = create_async_engine(cluster.url())
        await compare_async(aengine)
        await aengine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
