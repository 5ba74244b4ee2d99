"""What a transaction of datakit costs beside `engine.begin()`: python -P benchmarks/transaction.py

The same engine, the same statement; the rounds of all contestants alternate, and each line is the
median of its rounds, so that a busy machine disturbs them alike. A PostgreSQL of its own is
started. What a token costs is told beside a row that a caller writes to the same table by hand,
which is one round trip more.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from os import urandom

from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from datakit import create_async_engine, create_engine, transaction
from datakit.db import exactly_once
from datakit.testing import PostgresCluster

ROUNDS = 60
CALLS = 25
ONE = text("INSERT INTO payments VALUES (1)")
ROW = text("INSERT INTO datakit_commits (token) VALUES (:token)")


def begin(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(ONE)


def begin_with_row(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(ONE)
        conn.execute(ROW, {"token": urandom(16).hex()})


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


async def begin_with_row_async(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(ONE)
        await conn.execute(ROW, {"token": urandom(16).hex()})


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
    for _ in range(ROUNDS):
        note(lines, "engine.begin()", lambda: begin(engine))
        note(lines, "engine.begin(), a row more", lambda: begin_with_row(engine))
        note(lines, "transaction()", lambda: retried(engine))
        note(lines, "transaction(exactly_once=True)", lambda: settled(engine))
    report("sync", lines)


def note(lines: dict[str, list[float]], name: str, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    lines.setdefault(name, []).append((time.perf_counter() - start) / CALLS * 1e6)


async def compare_async(engine: AsyncEngine) -> None:
    lines: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        await anote(lines, "engine.begin()", lambda: begin_async(engine))
        await anote(lines, "engine.begin(), a row more", lambda: begin_with_row_async(engine))
        await anote(lines, "transaction()", lambda: retried_async(engine))
        await anote(lines, "transaction(exactly_once=True)", lambda: settled_async(engine))
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
    token = medians["transaction(exactly_once=True)"] - medians["transaction()"]
    row = medians["engine.begin(), a row more"] - medians["engine.begin()"]
    print(f"  the token costs {token / row:.2f} x the row")


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
