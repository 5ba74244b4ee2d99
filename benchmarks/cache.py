"""What a hit costs beside the peers, in one run: python -P benchmarks/cache.py

Each line is the best of many short rounds; the rounds of all peers alternate, so that a busy
machine disturbs them alike. It starts a Redis and a memcached of its own.
"""

import asyncio
import functools
import gc
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiocache
import cachebox
import cachetools
import cashews
import msgspec
import pymemcache.client.base
import redis
import redis.asyncio
import theine
from dogpile.cache import make_region

from datakit.cache import Cache
from datakit.cache.codec import codec_of
from datakit.testing import MemcachedServer, RedisServer

SECONDS = 3.0
"""For each table."""

Work = Callable[[int], object]
AsyncWork = Callable[[int], Awaitable[object]]


class Product(msgspec.Struct):
    id: int
    name: str
    price: float


PRODUCT = Product(7, "a name of some length", 9.5)
ENCODED = msgspec.msgpack.encode(PRODUCT)
decode = msgspec.msgpack.Decoder(Product).decode


def square(n: int) -> int:
    return n * n


def load(n: int) -> Product:
    return PRODUCT


async def asquare(n: int) -> int:
    return n * n


async def aload(n: int) -> Product:
    return PRODUCT


def best_of(works: dict[str, Work], calls: int) -> dict[str, float]:
    """Return the microseconds of one call of each."""
    best = dict.fromkeys(works, float("inf"))
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(calls):
                work(7)
            best[name] = min(best[name], (time.perf_counter() - start) / calls * 1e6)
    return best


async def abest_of(works: dict[str, AsyncWork], calls: int) -> dict[str, float]:
    """Return the microseconds of one awaited call of each."""
    best = dict.fromkeys(works, float("inf"))
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(calls):
                await work(7)
            best[name] = min(best[name], (time.perf_counter() - start) / calls * 1e6)
    return best


def report(title: str, best: dict[str, float]) -> None:
    """Print the figures and their ratios to the first one, datakit's."""
    own = next(iter(best.values()))
    print(f"\n{title}")
    for name, figure in best.items():
        print(f"  {name:<44} {figure:9.2f} µs   {figure / own:6.2f} x datakit")


def memory_hits() -> None:
    region = make_region().configure("dogpile.cache.memory", expiration_time=60)
    peers: dict[str, Any] = {
        "datakit memory://": Cache().cached(ttl=60),
        "cachebox.cached(TTLCache)": cachebox.cached(cachebox.TTLCache(1000, 60)),
        "cachetools.cached(TTLCache)": cachetools.cached(cachetools.TTLCache(1000, 60)),
        "theine.Memoize": theine.Memoize(1000, timedelta(seconds=60)),
        "dogpile memory": region.cache_on_arguments(),
        "functools.lru_cache (no TTL: not comparable)": functools.lru_cache,
    }
    report("in-process hit, sync", best_of({n: peer(square) for n, peer in peers.items()}, 1_000))


async def memory_hits_async() -> None:
    cashews.cache.setup("mem://")
    peers: dict[str, Any] = {
        "datakit memory://": Cache().cached(ttl=60),
        "aiocache.cached": aiocache.cached(ttl=60),
        "cashews mem://": cashews.cache(ttl="60s"),
    }
    works = {name: peer(asquare) for name, peer in peers.items()}
    report("in-process hit, async", await abest_of(works, 100))


def redis_hits(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.set("bench:7", ENCODED)
    region = make_region().configure(
        "dogpile.cache.redis", arguments={"host": server.address, "port": server.port}
    )

    def bare(n: int) -> Product:
        found = client.get(f"bench:{n}")
        assert isinstance(found, bytes)
        return decode(found)

    cache = Cache(server.url, timeout=5)
    works: dict[str, Work] = {
        "datakit redis://": cache.cached(ttl=600)(load),
        "bare redis-py get + msgspec decode": bare,
        "dogpile redis": region.cache_on_arguments()(load),
    }
    report("Redis hit, sync, decoded", best_of(works, 100))
    cache.close()
    client.close()


async def redis_hits_async(server: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    await client.set("bench:7", ENCODED)

    async def bare(n: int) -> Product:
        found = await client.get(f"bench:{n}")
        assert isinstance(found, bytes)
        return decode(found)

    cache = Cache(server.url, timeout=5)
    other = cashews.Cache()
    other.setup(server.url)
    works: dict[str, AsyncWork] = {
        "datakit redis://": cache.cached(ttl=600)(aload),
        "bare redis.asyncio get + msgspec decode": bare,
        "cashews redis://": other(ttl="600s")(asquare),
    }
    report("Redis hit, async, decoded", await abest_of(works, 50))
    await cache.aio.close()
    await client.aclose()
    await other.close()


def memcached_hits(server: MemcachedServer) -> None:
    address = (server.address, server.port)
    pooled = pymemcache.client.base.PooledClient(address, no_delay=True, max_pool_size=10)
    bounded = pymemcache.client.base.PooledClient(
        address, no_delay=True, max_pool_size=10, timeout=5, connect_timeout=5
    )
    plain = pymemcache.client.base.Client(address, no_delay=True)
    plain.set("bench:7", ENCODED, noreply=False)
    cache = Cache(server.url, timeout=5)
    works: dict[str, Work] = {
        "datakit memcached://": cache.cached(ttl=600)(load),
        "pymemcache PooledClient get + decode": lambda n: decode(pooled.get(f"bench:{n}")),
        "the same with timeout=5, as datakit": lambda n: decode(bounded.get(f"bench:{n}")),
        "pymemcache Client get + decode": lambda n: decode(plain.get(f"bench:{n}")),
    }
    report("memcached hit, sync, decoded", best_of(works, 100))
    cache.close()
    pooled.close()
    bounded.close()
    plain.close()


async def memcached_hits_async(server: MemcachedServer) -> None:
    cache = Cache(server.url, timeout=5)
    work = cache.cached(ttl=600)(aload)
    report("memcached hit, async, decoded", await abest_of({"datakit memcached://": work}, 50))
    await cache.aio.close()


def value_sizes(server: RedisServer) -> None:
    """What a larger value costs, beside the bare client."""
    client = redis.Redis.from_url(server.url)
    cache = Cache(server.url, timeout=5, compress_over=None)
    for size in (100, 10_000, 1_000_000):
        value = "x" * size
        client.set(f"size:{size}", msgspec.msgpack.encode(value))
        cache.set(f"own:{size}", value, ttl=600)

        def bare(n: int, size: int = size) -> object:
            found = client.get(f"size:{size}")
            assert isinstance(found, bytes)
            return msgspec.msgpack.decode(found)

        works: dict[str, Work] = {
            "datakit redis://": lambda n, size=size: cache.get(f"own:{size}"),  # type: ignore[misc]
            "bare redis-py": bare,
        }
        report(f"Redis hit of {size} characters", best_of(works, 100 if size < 100_000 else 5))
    cache.close()
    client.close()


def key_counts() -> None:
    """What a hit costs among many keys, and what an entry takes."""
    for count in (1_000, 1_000_000):
        gc.collect()
        before = _resident()
        cache = Cache(max_items=count)
        own = cache.cached(ttl=600)(square)
        own(7)
        codec = codec_of(square)
        memory = cache.fetchers.for_threads.open()
        for n in range(count):  # as a load does it, ten times as fast
            entry = cache.fetchers.core.entry(n * n, b"", 600, codec)
            memory.set([(own.key(n), entry, 600)])
        size = (_resident() - before) / count
        figure = best_of({"": own}, 1_000)[""]
        print(f"\n{count} keys in memory: {figure:.2f} µs a hit, {size:.0f} bytes an entry")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    memory_hits()
    asyncio.run(memory_hits_async())
    with RedisServer() as server:
        redis_hits(server)
        asyncio.run(redis_hits_async(server))
        value_sizes(server)
    with MemcachedServer(threads=1) as server:  # of several, one may be on a better processor
        memcached_hits(server)
        asyncio.run(memcached_hits_async(server))
    key_counts()


if __name__ == "__main__":
    main()
