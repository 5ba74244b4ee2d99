"""One suite for both backends and both sides: a test speaks to a `Side`, whichever it is."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from datakit import events
from datakit.cache import Cache
from datakit.testing import FakeClock, RedisServer


@dataclass
class Product:
    """What the functions under test return."""

    id: int
    name: str
    tags: list[str]


Load = Callable[[int], Product | None]


class SyncSide:
    """The cache from threads."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.get, self.set, self.delete = cache.get, cache.set, cache.delete

    def get_or_load(self, key: str, loader: Callable[[], Any], ttl: Any) -> Any:
        return self.cache.get_or_load(key, loader, ttl)

    def function(self, load: Load, **options: Any) -> Any:
        @self.cache.cached(**{"ttl": 60, **options})
        def get_product(product_id: int) -> Product | None:
            return load(product_id)

        def crowd(count: int, product_id: int) -> list[Product | None]:
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(get_product, [product_id] * count))

        get_product.crowd = crowd  # type: ignore[attr-defined]
        return get_product

    def close(self) -> None:
        self.cache.close()


class AsyncFunction:
    """A cached coroutine function whose every use is run to its end."""

    def __init__(self, function: Any, crowd: Any, run: Callable[..., Callable[..., Any]]) -> None:
        self.key = function.key
        self.call, self.crowd = run(function), run(crowd)
        self.peek, self.refresh = run(function.peek), run(function.refresh)
        self.put, self.invalidate = run(function.put), run(function.invalidate)

    def __call__(self, product_id: int) -> Any:
        return self.call(product_id)


class AsyncSide:
    """The cache from tasks."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._runner = asyncio.Runner()

    def _run(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            return await method(*args)

        return lambda *args: self._runner.run(call(*args))

    def __getattr__(self, name: str) -> Any:
        return self._run(getattr(self.cache.aio, name))

    def get_or_load(self, key: str, loader: Callable[[], Any], ttl: Any) -> Any:
        async def load() -> Any:
            return loader()

        load.__annotations__ = loader.__annotations__
        return self._run(self.cache.aio.get_or_load)(key, load, ttl)

    def function(self, load: Load, **options: Any) -> Any:
        @self.cache.cached(**{"ttl": 60, **options})
        async def get_product(product_id: int) -> Product | None:
            await asyncio.sleep(0)
            return await asyncio.to_thread(load, product_id)

        async def crowd(count: int, product_id: int) -> list[Product | None]:
            return await asyncio.gather(*(get_product(product_id) for _ in range(count)))

        return AsyncFunction(get_product, crowd, self._run)

    def close(self) -> None:
        self._runner.run(self.cache.aio.close())
        self._runner.close()


SIDES = {"sync": SyncSide, "async": AsyncSide}


@pytest.fixture(params=list(SIDES))
def side_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Cache], Any]]:
    """Return what makes a side of a cache; all are closed at the end."""
    sides: list[Any] = []

    def make(cache: Cache) -> Any:
        sides.append(SIDES[request.param](cache))
        return sides[-1]

    yield make
    for side in sides:
        side.close()


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    """The events of the test that tell of trouble."""
    found: list[events.Event] = []
    daily = (events.CacheHit, events.CacheMiss, events.CacheStored)

    def note(event: events.Event) -> None:
        if not isinstance(event, daily):
            found.append(event)

    unsubscribe = events.subscribe(note)
    yield found
    unsubscribe()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may kill and stop."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def product() -> type[Product]:
    return Product
