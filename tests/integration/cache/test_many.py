"""`cached_many`: every store, both sides."""

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import Any

import pytest

from datakit import events
from datakit.cache import Cache, cached_many
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import deadline
from datakit.testing import FakeClock, RedisServer


class Load:
    """Notes what it was asked for; knows no odd thousands."""

    def __init__(self, product: Any) -> None:
        self.product = product
        self.asked: list[list[int]] = []

    def __call__(self, ids: Sequence[int]) -> Any:
        self.asked.append(list(ids))
        return {n: self.product(n, f"name {n}", []) for n in reversed(ids) if n < 1000}


@pytest.fixture
def load(product: Any) -> Load:
    return Load(product)


def test_only_what_is_missing_is_loaded(side: Any, load: Load, product: Any) -> None:
    """In one run; the order of the ids is kept and duplicates are folded."""
    load_products = side.many(load)
    assert list(load_products([3, 1, 3])) == [3, 1]
    found = load_products([2, 1, 3, 4, 2])
    assert list(found) == [2, 1, 3, 4]
    assert found[4] == product(4, "name 4", [])
    assert load.asked == [[3, 1], [2, 4]]
    assert load_products([]) == {}


def test_what_the_function_does_not_know_is_in_no_result(side: Any, load: Load) -> None:
    """And asked for again."""
    load_products = side.many(load)
    assert list(load_products([1, 1000])) == [1]
    assert list(load_products([1, 1000])) == [1]
    assert load.asked == [[1, 1000], [1000]]


def test_helpers(side: Any, load: Load, product: Any) -> None:
    """They take ids, too."""
    load_products = side.many(load)
    assert load_products.peek([1, 2]) == {}
    load_products([1, 2])
    assert list(load_products.peek([2, 1, 3])) == [2, 1]
    load_products.put({1: product(1, "put", []), 5: product(5, "put", [])})
    assert [one.name for one in load_products([1, 2, 5]).values()] == ["put", "name 2", "put"]
    load_products.invalidate([1, 2])
    assert list(load_products.peek([1, 2, 5])) == [5]
    assert load_products.refresh([5])[5].name == "name 5"
    assert load_products([5])[5].name == "name 5"
    assert load_products.key(5) != load_products.key(6)


def test_a_batch_of_no_ids(side: Any, load: Load, seen: list[events.Event]) -> None:
    """Nothing is asked of anybody."""
    load_products = side.many(load)
    assert load_products([]) == load_products.peek([]) == {}
    load_products.put({})
    load_products.invalidate([])
    assert load.asked == []
    assert seen == []


def test_expiry_and_failed_load(side: Any, load: Load, clock: FakeClock) -> None:
    """A load that fails is raised, or hidden where all is there that is asked for."""
    load_products = side.many(load, stale_if_error=60)
    load_products([1, 2])
    clock.advance(61)
    load.product = None  # raises a TypeError
    assert list(load_products([1, 2])) == [1, 2]
    with pytest.raises(TypeError):
        load_products([1, 2, 3])
    clock.advance(61)
    with pytest.raises(TypeError):
        load_products([1])


def test_overlapping_batches_load_each_key_once(url: str, product: Any) -> None:
    """Threads share what others load, and nothing else."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)
    asked: list[int] = []
    lock, go_on = threading.Lock(), threading.Event()

    @cache.cached_many(ttl=60, by="ids")
    def load_products(ids: Sequence[int]) -> dict[int, int]:
        with lock:
            asked.extend(ids)
        go_on.wait(0.1)
        return {n: n * n for n in ids}

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda n: load_products(range(n, n + 20)), range(20)))
    assert found == [{n: n * n for n in range(k, k + 20)} for k in range(20)]
    assert sorted(asked) == list(range(39))
    cache.close()


async def test_overlapping_batches_of_tasks(url: str) -> None:
    """The same; one that is cancelled leaves its load to the others."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)
    asked: list[int] = []
    loading, go_on = asyncio.Event(), asyncio.Event()

    @cache.cached_many(ttl=60, by="ids")
    async def load_products(ids: Sequence[int]) -> dict[int, int]:
        asked.extend(ids)
        if 0 in ids:
            loading.set()
        await go_on.wait()
        return {n: n * n for n in ids}

    tasks = [asyncio.create_task(load_products(range(n, n + 20))) for n in range(20)]
    await loading.wait()
    tasks[0].cancel()
    go_on.set()
    found = await asyncio.gather(*tasks[1:])
    assert found == [{n: n * n for n in range(k, k + 20)} for k in range(1, 20)]
    assert sorted(asked) == list(range(39))
    assert tasks[0].cancelled()
    await cache.aio.close()


def test_a_batch_of_a_closed_loop_keeps_no_other_loop_from_its_keys(url: str) -> None:
    """It was closed while the batch went on without its caller."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)
    go_on: list[bool] = []

    @cache.cached_many(ttl=60, by="ids")
    async def load_products(ids: Sequence[int]) -> dict[int, int]:
        while not go_on:  # noqa: ASYNC110 - events belong to one loop
            await asyncio.sleep(0.01)
        return {n: n * n for n in ids}

    async def give_up() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await load_products([1])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(give_up())

    async def ask_again() -> dict[int, int]:
        with deadline(1):  # the lease is the closed loop's still
            found = await load_products([1])
        await cache.aio.close()
        return found

    go_on.append(True)
    assert asyncio.run(ask_again()) == {1: 1}
    loop.run_until_complete(cache.aio.close())
    loop.close()


async def test_a_batch_whose_task_never_began_keeps_nobody_from_its_keys(url: str) -> None:
    """As when an event loop ends: it cancels tasks before their first step."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)

    @cache.cached_many(ttl=60, by="ids")
    async def load_products(ids: Sequence[int]) -> dict[int, int]:
        return {n: n * n for n in ids}

    known = asyncio.all_tasks()
    batch = asyncio.create_task(load_products([1, 2]))
    while not (apart := asyncio.all_tasks() - known - {batch}):  # noqa: ASYNC110 - it is a step that is waited for
        await asyncio.sleep(0)
    apart.pop().cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert await load_products([2, 3]) == {2: 4, 3: 9}
    await cache.aio.close()


def test_two_processes_load_each_key_once(redis_server: RedisServer) -> None:
    """The leases are taken one by one: what the other loads is waited for."""
    namespace = uuid.uuid4().hex
    asked: list[int] = []
    barrier = threading.Barrier(2)

    def batch(ids: Sequence[int]) -> Any:
        cache = Cache(redis_server.url, namespace=namespace, timeout=5)

        @cache.cached_many(ttl=60, by="ids", key="p:{ids}")
        def load_products(ids: Sequence[int]) -> dict[int, int]:
            asked.extend(ids)
            barrier.wait(10)
            return {n: n * n for n in ids}

        try:
            return load_products(ids)
        finally:
            cache.close()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(batch, [range(10), range(5, 15)]))
    assert found == [{n: n * n for n in range(10)}, {n: n * n for n in range(5, 15)}]
    assert sorted(asked) == list(range(15))


def test_other_arguments_are_part_of_the_key(cache: Cache) -> None:
    """And methods say what becomes of `self`."""
    asked: list[tuple[list[int], str]] = []

    class Shop:
        @cache.cached_many(ttl=60, by="ids", ignore=("self",))
        def names(self, ids: Sequence[int], lang: str = "en") -> dict[int, str]:
            asked.append((list(ids), lang))
            return {n: f"{lang} {n}" for n in ids}

    shop = Shop()
    assert shop.names([1, 2]) == {1: "en 1", 2: "en 2"}
    assert shop.names([1, 2], lang="de") == {1: "de 1", 2: "de 2"}
    assert shop.names([2, 3], "en") == {2: "en 2", 3: "en 3"}
    assert asked == [([1, 2], "en"), ([1, 2], "de"), ([3], "en")]
    cache.close()


def test_mistakes_are_told_at_decoration() -> None:
    """The ids come first."""

    def wrong(lang: str, ids: Sequence[int]) -> dict[int, str]:
        return {}

    with pytest.raises(ConfigError, match="first parameter"):
        cached_many(ttl=60, by="ids")(wrong)

    with pytest.raises(ConfigError, match="refresh_ahead=: no such option here; there are ttl, "):
        cached_many(ttl=60, by="ids", refresh_ahead=0.8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def listed(ids: Sequence[int]) -> list[int]:
        return [*ids]

    cached: Any = cached_many(ttl=60, by="ids")(listed)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"dict\[id, value\]"):
        cached([1])


def test_a_batch_is_three_round_trips(own_server: RedisServer) -> None:
    """MGET, the leases, the store; then one MGET."""
    import redis

    with redis.Redis(host=own_server.address, port=own_server.port) as client:

        def commands() -> dict[str, int]:
            stats = client.info("commandstats")
            return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}

        cache = Cache(own_server.url, timeout=5)

        @cache.cached_many(ttl=60, by="ids")
        def load_products(ids: Sequence[int]) -> dict[int, int]:
            return {n: n for n in ids}

        load_products(range(50))
        load_products(range(50))
        seen = commands()
        assert (seen["mget"], seen["eval"]) == (2, 50)
        cache.close()


def test_the_deadline_of_one_batch_ends_no_other(cache: Cache) -> None:
    """Who waited for it loads the key, or is told that its own deadline is over."""
    loading = Event()

    @cache.cached_many(ttl=60, by="ids")
    def squares(ids: Sequence[int]) -> dict[int, int]:
        if deadline.remaining() is not None:
            loading.set()
            time.sleep(0.8)
            deadline.bound(1)
        return {n: n * n for n in ids}

    def hurried() -> dict[int, int]:
        with deadline(0.5):
            return squares([1, 2])

    def more_hurried() -> dict[int, int]:
        with deadline(0.2):
            return squares([1])

    squares([9])  # opened, so that no deadline is spent on that
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(hurried)
        assert loading.wait(5)
        second, third = pool.submit(squares, [2, 3]), pool.submit(more_hurried)
        assert second.result() == {2: 4, 3: 9}
        for one in (first, third):
            with pytest.raises(DeadlineExceededError):
                one.result()
    cache.close()


async def test_the_deadline_of_a_batch_of_tasks_is_told_as_such(cache: Cache) -> None:
    """Whether it loads or waits for another one."""
    started = asyncio.Event()

    @cache.cached_many(ttl=60, by="ids")
    async def squares(ids: Sequence[int]) -> dict[int, int]:
        started.set()
        await asyncio.sleep(0.3)
        return {n: n * n for n in ids}

    patient = asyncio.create_task(squares([1, 2]))
    await started.wait()
    with pytest.raises(DeadlineExceededError), deadline(0.05):
        await squares([1])
    with pytest.raises(DeadlineExceededError), deadline(0.05):
        await squares([3])
    assert await patient == {1: 1, 2: 4}
    await cache.aio.close()


def test_what_cannot_be_stored_is_handed_to_one_batch(url: str) -> None:
    """A batch that waited for it gets its own."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5)

    @cache.cached_many(ttl=60, by="ids")
    def rows(ids: Sequence[int]) -> dict[int, Any]:
        time.sleep(0.2)
        return {n: iter(range(3)) for n in ids}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: list(rows([1, n])[1]), range(2, 6)))
    assert found == [[0, 1, 2]] * 4

    @cache.cached_many(ttl=60, by="ids")
    async def arows(ids: Sequence[int]) -> dict[int, Any]:
        await asyncio.sleep(0.2)
        return {n: iter(range(3)) for n in ids}

    async def main() -> list[Any]:
        found = await asyncio.gather(*(arows([1, n]) for n in range(2, 6)))
        await cache.aio.close()
        return [list(one[1]) for one in found]

    assert asyncio.run(main()) == [[0, 1, 2]] * 4
    cache.close()
