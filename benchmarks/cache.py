"""What a hit costs beside the peers, in one run: python -P benchmarks/cache.py [redis-url]

Each line is the best of several rounds; rounds of all peers alternate, so that a busy machine
disturbs them alike. Without an URL a Redis server of its own is started.
"""

import asyncio
import functools
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import cachebox
import cachetools
import msgspec
import redis

from datakit.cache import Cache
from datakit.testing import RedisServer

ROUNDS = 15


def timed(work: Callable[[int], object], calls: int) -> float:
    """Return the microseconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        work(7)
    return (time.perf_counter() - start) / calls * 1e6


async def atimed(work: Callable[[int], Awaitable[object]], calls: int) -> float:
    """Return the microseconds of one awaited call."""
    start = time.perf_counter()
    for _ in range(calls):
        await work(7)
    return (time.perf_counter() - start) / calls * 1e6


def report(title: str, best: dict[str, float]) -> None:
    """Print the figures and their ratios to the first one, datakit's."""
    own = next(iter(best.values()))
    print(f"\n{title}")
    for name, figure in best.items():
        print(f"  {name:<44} {figure:9.2f} µs   {figure / own:6.2f} x datakit")


def square(n: int) -> int:
    return n * n


def sync_hits() -> None:
    contestants: dict[str, Callable[[int], object]] = {
        "datakit memory://": Cache().cached(ttl=60)(square),
        "cachebox.cached(TTLCache)": cachebox.cached(cachebox.TTLCache(1000, 60))(square),
        "cachetools.cached(TTLCache)": cachetools.cached(cachetools.TTLCache(1000, 60))(square),
        "functools.lru_cache (no TTL: not comparable)": functools.lru_cache(square),
    }
    best = {name: float("inf") for name in contestants}
    for _ in range(ROUNDS):
        for name, work in contestants.items():
            best[name] = min(best[name], timed(work, 20_000))
    report("in-process hit, sync", best)


async def async_hits() -> None:
    @Cache().cached(ttl=60)
    async def own(n: int) -> int:
        return n * n

    contestants: dict[str, tuple[Callable[[int], Awaitable[object]], int]] = {
        "datakit memory://": (own, 20_000)
    }
    if importlib.util.find_spec("aiocache"):
        import aiocache

        @aiocache.cached(ttl=60)  # type: ignore[untyped-decorator]
        async def theirs(n: int) -> int:
            return n * n

        contestants["aiocache.cached"] = (theirs, 1_000)
    best = {name: float("inf") for name in contestants}
    for _ in range(ROUNDS):
        for name, (work, calls) in contestants.items():
            best[name] = min(best[name], await atimed(work, calls))
    report("in-process hit, async", best)


class Product(msgspec.Struct):
    id: int
    name: str
    price: float


def redis_hits(url: str) -> None:
    @Cache(url, timeout=5).cached(ttl=60)
    def own(n: int) -> Product:
        return Product(n, "a name of some length", 9.5)

    client = redis.Redis.from_url(url)
    client.set("bench:7", msgspec.msgpack.encode(Product(7, "a name of some length", 9.5)), ex=60)
    decode = msgspec.msgpack.Decoder(Product).decode

    def bare(n: int) -> Product:
        found = client.get(f"bench:{n}")
        assert isinstance(found, bytes)
        return decode(found)

    contestants: dict[str, Callable[[int], object]] = {
        "datakit redis://": own,
        "bare redis-py get + msgspec decode": bare,
    }
    best = {name: float("inf") for name in contestants}
    for _ in range(ROUNDS):
        for name, work in contestants.items():
            best[name] = min(best[name], timed(work, 1_000))
    report("Redis hit, sync, decoded", best)
    client.close()


def main() -> None:
    sync_hits()
    asyncio.run(async_hits())
    with nullcontext() if sys.argv[1:] else RedisServer() as server:
        redis_hits(sys.argv[1] if server is None else server.url)


if __name__ == "__main__":
    main()
