"""One suite for both backends and both sides: a test speaks to a `Side`, whichever it is."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, cast

import pytest

from datakit import events
from datakit.cache import Cache
from datakit.testing import FakeClock, FaultProxy, RedisServer
from datakit.testing._wait import until


@dataclass
class Product:
    """What the functions under test return."""

    id: int
    name: str
    tags: list[str]


Load = Callable[[int], Product | None]


class Loader:
    """Counts its runs and returns a product named after the count; raises `error` if told so."""

    def __init__(self, product: Any, seconds: float = 0.0) -> None:
        self.product = product
        self.seconds = seconds
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self, product_id: int) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        time.sleep(self.seconds)
        return self.product(product_id, f"name {self.calls}", ["a", "b"])


class SyncSide:
    """The cache from threads."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.get, self.set, self.delete = cache.get, cache.set, cache.delete

    def get_or_load(self, key: str, loader: Callable[[], Any], ttl: Any) -> Any:
        return self.cache.get_or_load(key, loader, ttl)

    def function(self, load: Load, **options: Any) -> Any:
        @self.cache.cached(**cast("Any", {"ttl": 60, **options}))
        def get_product(product_id: int) -> Product | None:
            return load(product_id)

        def crowd(count: int, product_id: int) -> list[Product | None]:
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(get_product, [product_id] * count))

        get_product.crowd = crowd  # type: ignore[attr-defined]
        get_product.fn = get_product  # type: ignore[attr-defined]
        return get_product

    def many(self, load: Callable[[Sequence[int]], dict[int, Product]], **options: Any) -> Any:
        @self.cache.cached_many(**cast("Any", {"ttl": 60, "by": "ids", **options}))
        def load_products(ids: Sequence[int]) -> dict[int, Product]:
            return load(ids)

        return load_products

    def drain(self) -> None:
        """Wait for what goes on behind the callers' backs."""
        refreshers = self.cache.fetchers.for_threads._refreshers
        if refreshers is not None:
            refreshers.submit(int).result()

    def close(self) -> None:
        self.cache.close()


class AsyncFunction:
    """A cached coroutine function whose every use is run to its end."""

    def __init__(self, function: Any, crowd: Any, run: Callable[..., Callable[..., Any]]) -> None:
        self.key, self.fn = function.key, function
        self.call, self.crowd = run(function), run(crowd)
        self.peek, self.refresh = run(function.peek), run(function.refresh)
        self.put, self.invalidate = run(function.put), run(function.invalidate)

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class AsyncSide:
    """The cache from tasks."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._runner = asyncio.Runner()

    def _run(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            return await method(*args)

        return lambda *args: self._runner.run(call(*args), context=copy_context())

    def __getattr__(self, name: str) -> Any:
        return self._run(getattr(self.cache.aio, name))

    def get_or_load(self, key: str, loader: Callable[[], Any], ttl: Any) -> Any:
        async def load() -> Any:
            return loader()

        load.__annotations__ = loader.__annotations__
        return self._run(self.cache.aio.get_or_load)(key, load, ttl)

    def function(self, load: Load, **options: Any) -> Any:
        @self.cache.cached(**cast("Any", {"ttl": 60, **options}))
        async def get_product(product_id: int) -> Product | None:
            await asyncio.sleep(0)
            return await asyncio.to_thread(load, product_id)

        async def crowd(count: int, product_id: int) -> list[Product | None]:
            return await asyncio.gather(*(get_product(product_id) for _ in range(count)))

        return AsyncFunction(get_product, crowd, self._run)

    def many(self, load: Callable[[Sequence[int]], dict[int, Product]], **options: Any) -> Any:
        @self.cache.cached_many(**cast("Any", {"ttl": 60, "by": "ids", **options}))
        async def load_products(ids: Sequence[int]) -> dict[int, Product]:
            return await asyncio.to_thread(load, ids)

        return AsyncFunction(load_products, load_products, self._run)

    def drain(self) -> None:
        """Wait for what goes on behind the callers' backs."""

        async def wait() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)

        self._runner.run(wait())

    def close(self) -> None:
        self._runner.run(self.cache.aio.close())
        self._runner.close()


STORES = ["memory", "redis", "memcached"]
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


def wait_until_held(proxy: FaultProxy) -> None:
    """Return once the server has answered, and the answer is held back."""
    until(lambda: proxy.bytes_held > 0, "answer that is held back")


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


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """Where the cache of the test lies: the test runs once for each store."""
    if request.param == "memory":
        return "memory://"
    return str(request.getfixturevalue(f"{request.param}_server").url)


@pytest.fixture
def cache(url: str, clock: FakeClock) -> Cache:
    return Cache(url, namespace=uuid.uuid4().hex, timeout=5, clock=clock)


@pytest.fixture
def side(cache: Cache, side_of: Callable[[Cache], Any]) -> Any:
    return side_of(cache)
