"""Loads that ask for each other's keys: nobody waits for ever."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from datakit.cache import Cache

OTHER = {"a": "b", "b": "c", "c": "a"}


def test_loads_of_threads_that_want_each_other(cache: Cache) -> None:
    """Three threads load three keys, each of which needs the next one's value."""
    barrier = Barrier(3)
    begun: set[str] = set()

    @cache.cached(ttl=60)
    def depth(name: str) -> int:
        if name in begun:
            return 0
        begun.add(name)
        barrier.wait()
        return depth(OTHER[name]) + 1

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(depth, "abc")) <= 3
    assert [depth.peek(name) is None for name in "abc"] == [False] * 3
    cache.close()


async def test_loads_of_tasks_that_want_each_other(cache: Cache) -> None:
    """The same for tasks."""
    barrier = asyncio.Barrier(3)
    begun: set[str] = set()

    @cache.cached(ttl=60)
    async def depth(name: str) -> int:
        if name in begun:
            return 0
        begun.add(name)
        await barrier.wait()
        return await depth(OTHER[name]) + 1

    assert max(await asyncio.gather(*map(depth, "abc"))) <= 3
    assert [await depth.peek(name) is None for name in "abc"] == [False] * 3
    await cache.aio.close()


def test_batches_of_threads_that_want_each_other(cache: Cache) -> None:
    """The same for batches."""
    barrier = Barrier(3)
    begun: set[str] = set()

    @cache.cached_many(ttl=60, by="names")
    def depths(names: Sequence[str]) -> dict[str, int]:
        (name,) = names
        if name in begun:
            return {name: 0}
        begun.add(name)
        barrier.wait()
        return {name: depths([OTHER[name]])[OTHER[name]] + 1}

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(lambda name: depths([name])[name], "abc")) <= 3
    assert len(depths.peek("abc")) == 3
    cache.close()


async def test_batches_of_tasks_that_want_each_other(cache: Cache) -> None:
    """The same for batches of tasks."""
    barrier = asyncio.Barrier(3)
    begun: set[str] = set()

    @cache.cached_many(ttl=60, by="names")
    async def depths(names: Sequence[str]) -> dict[str, int]:
        (name,) = names
        if name in begun:
            return {name: 0}
        begun.add(name)
        await barrier.wait()
        return {name: (await depths([OTHER[name]]))[OTHER[name]] + 1}

    found = await asyncio.gather(*(depths([name]) for name in "abc"))
    assert max(max(one.values()) for one in found) <= 3
    assert len(await depths.peek("abc")) == 3
    await cache.aio.close()


async def test_a_task_that_a_load_started_is_no_part_of_it_once_it_has_ended(cache: Cache) -> None:
    """Its calls are kept, as anybody's."""
    loads = 0
    ended = asyncio.Event()
    tasks: list[asyncio.Task[list[int]]] = []

    async def poll() -> list[int]:
        await ended.wait()
        return [await load(1) for _ in range(3)]

    @cache.cached(ttl=60)
    async def load(n: int) -> int:
        nonlocal loads
        loads += 1
        if not tasks:
            tasks.append(asyncio.create_task(poll()))
        return loads

    assert await load(1) == 1
    await load.invalidate(1)
    ended.set()
    assert await tasks[0] == [2, 2, 2]
    await cache.aio.close()
