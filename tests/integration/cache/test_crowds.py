"""More callers at once than connections, on a server that is well, and on one that is not."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from datakit.cache import Cache
from datakit.cache.backends.pool import MAX_CONNECTIONS
from datakit.testing import FaultProxy

CALLERS = 3 * MAX_CONNECTIONS


@pytest.fixture(params=["redis", "memcached"])
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    server = request.getfixturevalue(f"{request.param}_server")
    with FaultProxy(server.address, server.port) as proxy:
        yield proxy


@pytest.fixture
def cache(proxy: FaultProxy, request: pytest.FixtureRequest) -> Cache:
    scheme = request.node.callspec.params["proxy"]
    url = f"{scheme}://{proxy.host}:{proxy.port}"
    return Cache(url, namespace=uuid.uuid4().hex, timeout=1.0)


def load() -> int:
    return 7


async def aload() -> int:
    return 7


def test_threads_in_line_for_a_connection_get_their_hits(cache: Cache, proxy: FaultProxy) -> None:
    """The last ones wait for longer than the server is given for an answer."""
    cache.get_or_load("k", load, 60)
    proxy.delay(0.5)
    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(lambda _: cache.get_or_load("k", load, 60), range(CALLERS))) == {7}
    stats = cache.stats()
    assert (stats.hits, stats.loads, stats.unavailable) == (CALLERS, 1, 0)
    cache.close()


async def test_tasks_in_line_for_a_connection_get_their_hits(
    cache: Cache, proxy: FaultProxy
) -> None:
    """The same for tasks."""
    await cache.aio.get_or_load("k", aload, 60)
    proxy.delay(0.5)
    crowd = [cache.aio.get_or_load("k", aload, 60) for _ in range(CALLERS)]
    assert set(await asyncio.gather(*crowd)) == {7}
    stats = cache.stats()
    assert (stats.hits, stats.loads, stats.unavailable) == (CALLERS, 1, 0)
    await cache.aio.close()


def test_threads_in_line_for_a_lost_server_do_not_try_it_one_after_the_other(
    cache: Cache, proxy: FaultProxy
) -> None:
    cache.get_or_load("k", load, 60)
    proxy.black_hole()
    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(lambda _: cache.get_or_load("k", load, 60), range(CALLERS))) == {7}
    assert proxy.connections <= MAX_CONNECTIONS + 10  # new callers try, until the breaker opens
    cache.close()


async def test_tasks_in_line_for_a_lost_server_do_not_try_it_one_after_the_other(
    cache: Cache, proxy: FaultProxy
) -> None:
    await cache.aio.get_or_load("k", aload, 60)
    proxy.black_hole()
    crowd = [cache.aio.get_or_load("k", aload, 60) for _ in range(CALLERS)]
    assert set(await asyncio.gather(*crowd)) == {7}
    assert proxy.connections <= MAX_CONNECTIONS + 10
    await cache.aio.close()


async def test_a_busy_loop_is_not_the_servers_fault(cache: Cache) -> None:
    """Replies that came while nobody read them came in time."""
    await cache.aio.set("k", 7, 60)
    await asyncio.gather(*(cache.aio.get("k") for _ in range(20)))  # connects
    crowd = [asyncio.create_task(cache.aio.get("k")) for _ in range(20)]
    await asyncio.sleep(0)
    time.sleep(1.5)  # noqa: ASYNC251 - as an application should not, and does
    assert set(await asyncio.gather(*crowd)) == {7}
    assert cache.stats().unavailable == 0
    await cache.aio.close()


async def test_more_ids_than_one_exchange_takes(cache: Cache) -> None:
    many = {f"k{n}": n for n in range(2500)}
    calls: list[int] = []

    @cache.cached_many(ttl=60, by="keys", key="{keys}")
    def numbers(keys: Any) -> dict[str, int]:
        calls.append(len(keys))
        return {key: many[key] for key in keys}

    @cache.cached_many(ttl=60, by="keys", key="{keys}")
    async def anumbers(keys: Any) -> dict[str, int]:
        return dict(numbers.__wrapped__(keys))

    keys = list(many)
    assert numbers(keys) == await anumbers(keys) == numbers(keys) == many
    assert calls == [2500]
    await anumbers.invalidate(keys)
    assert numbers.peek(keys) == {}
    assert await anumbers(keys) == many
    assert numbers.peek(keys) == many
    cache.close()
    await cache.aio.close()
