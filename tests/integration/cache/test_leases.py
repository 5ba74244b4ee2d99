"""Leases that are not given back in good order: who comes after waits little."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from tests.integration.cache.conftest import Loader

from datakit.cache import Cache
from datakit.cache.steps import HOLDERS
from datakit.errors import DeadlineExceededError
from datakit.resilience import deadline
from datakit.testing import FakeClock, FaultProxy, MemcachedServer, RedisServer

ENDINGS = pytest.mark.parametrize("error", [None, KeyError("lost")], ids=["returns", "raises"])


@ENDINGS
def test_a_load_that_outlives_its_deadline_gives_its_lease_back(
    cache: Cache, clock: FakeClock, error: Exception | None
) -> None:
    """Its value is stored, if there is one; the next caller waits for nothing."""
    calls: list[int] = []

    @cache.cached(ttl=60)
    def square(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            clock.advance(2)
            if error is not None:
                raise error
        return n * n

    with deadline(1, clock=clock), suppress(KeyError):
        square(7)
    began = clock.monotonic()
    assert square(7) == 49
    assert clock.monotonic() == began
    assert len(calls) == (1 if error is None else 2)
    cache.close()


@ENDINGS
async def test_a_load_of_tasks_that_outlives_its_deadline_gives_its_lease_back(
    cache: Cache, clock: FakeClock, error: Exception | None
) -> None:
    """The same for tasks."""
    calls: list[int] = []

    @cache.cached(ttl=60)
    async def square(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            clock.advance(2)
            if error is not None:
                raise error
        return n * n

    with deadline(1, clock=clock), suppress(KeyError, DeadlineExceededError):
        await square(7)
    began = clock.monotonic()
    assert await square(7) == 49
    assert clock.monotonic() == began
    assert len(calls) == (1 if error is None else 2)
    await cache.aio.close()


@pytest.mark.parametrize("server_of", [RedisServer, MemcachedServer])
def test_a_lost_server_leaves_no_key_to_a_holder_that_is_gone(
    server_of: Any, side_of: Any, product: Any
) -> None:
    """It runs what it was sent before it stopped, for callers that gave up: the key is leased."""
    with server_of() as server:
        cache = Cache(server.url)
        side = side_of(cache)
        get_product = side.function(Loader(product))
        key = get_product.key(7)
        get_product(8)
        cache.fetchers.for_threads.open().acquire((key,), 600)
        server.stop_process()
        get_product(9)
        server.resume_process()
        until = time.monotonic() + 20  # the lease lasts for 600 s
        while get_product.peek(7) is None:  # a busy machine may lose a call or two
            assert time.monotonic() < until
            assert get_product(7).id == 7
        cache.close()


@pytest.mark.parametrize("server_of", [RedisServer, MemcachedServer])
def test_a_lost_server_leaves_no_batch_to_a_holder_that_is_gone(
    server_of: Any, side_of: Any, product: Any
) -> None:
    """The same for many ids."""
    with server_of() as server:
        cache = Cache(server.url)
        side = side_of(cache)
        load_products = side.many(lambda ids: {n: product(n, "x", []) for n in ids})
        load_products([8])
        cache.fetchers.for_threads.open().acquire((load_products.key(7),), 600)
        server.stop_process()
        load_products([9])
        server.resume_process()
        until = time.monotonic() + 20
        while list(load_products.peek([7, 8])) != [7, 8]:
            assert time.monotonic() < until
            assert list(load_products([7, 8])) == [7, 8]
        cache.close()


class Holders(FakeClock):
    """A clock whose every pause ends with another holder of the lease."""

    def __init__(self) -> None:
        super().__init__()
        self.seize: Callable[[], Any] = int

    def sleep(self, seconds: float, /) -> None:
        super().sleep(seconds)
        self.seize()

    async def asleep(self, seconds: float, /) -> None:
        await super().asleep(seconds)
        self.seize()


@pytest.fixture
def holders() -> Holders:
    return Holders()


@pytest.fixture
def held(url: str, holders: Holders) -> Iterator[tuple[Cache, Callable[[], Any]]]:
    """A cache, and what lets another process take the lease of "k" for a minute."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5, clock=holders)

    def seize() -> None:
        (grant,) = cache.fetchers.for_threads.ask("acquire", [cache._core.key("k")], 60.0, True)
        assert grant.lease is not None

    yield cache, seize
    cache.close()


@pytest.mark.parametrize("many", [False, True])
def test_a_caller_with_a_deadline_waits_for_a_holder_that_is_gone_and_loads(
    held: Any, side_of: Any, holders: Holders, many: bool
) -> None:
    """For half of what it has: the load needs some, too."""
    cache, seize = held
    side = side_of(cache)
    load_many = side.many(lambda ids: dict.fromkeys(ids, 5), key="k")
    seize()
    with deadline(1, clock=holders):
        assert (load_many([7])[7] if many else side.get_or_load("k", lambda: 5, 60)) == 5
    assert 0.4 < sum(holders.sleeps) < 0.7


@pytest.mark.parametrize("outcome", ["raises", "is not kept"])
def test_nobody_waits_for_loads_that_leave_nothing(
    held: Any, side_of: Any, holders: Holders, outcome: str
) -> None:
    """Once one of its own has left nothing: whoever it waits for may be waited for in turn."""
    cache, seize = held

    def load(n: int) -> None:
        if outcome == "raises":
            raise KeyError(n)

    fn = side_of(cache).function(load, key="k", none_ttl=0)
    for _ in range(2):
        with suppress(KeyError):
            fn(7)
        assert holders.sleeps == ()
        seize()
    holders.advance(60)
    seize()
    with suppress(KeyError):
        fn(7)
    assert holders.sleeps != ()


@pytest.mark.parametrize("many", [False, True])
def test_who_waits_sees_that_others_leave_nothing(
    held: Any, side_of: Any, holders: Holders, many: bool
) -> None:
    """The third holder in a row is not waited for."""
    cache, seize = held
    side = side_of(cache)
    load_many = side.many(lambda ids: dict.fromkeys(ids, 5), key="k")
    holders.seize = seize
    seize()
    assert (load_many([7])[7] if many else side.get_or_load("k", lambda: 5, 60)) == 5
    assert len(holders.sleeps) == HOLDERS - 1


def test_a_user_who_may_not_store_waits_little(own_server: RedisServer, side_of: Any) -> None:
    """Without the right to EVAL no value is stored and no lease given back."""
    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all", "-eval")
    url = own_server.url.replace("redis://", "redis://u:pw@")
    side = side_of(Cache(url))
    square = side.function(lambda n: None)
    began = time.monotonic()
    assert [square(7), square(7)] == [None, None]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("server_of", [RedisServer, MemcachedServer])
async def test_a_call_cancelled_at_any_time_leaves_no_lease(server_of: Any) -> None:
    """Whatever it waits for when it is cancelled, the next caller loads at once."""
    with server_of() as server, FaultProxy(server.address, server.port) as proxy:
        cache = Cache(f"{server.url.partition(':')[0]}://{proxy.host}:{proxy.port}", timeout=10)

        @cache.cached(ttl=60)
        async def square(n: int) -> int:
            await asyncio.sleep(0.02)
            return n * n

        await square(1000)
        proxy.delay(0.02)
        for n in range(20):
            call = asyncio.create_task(square(n))
            await asyncio.sleep(n * 0.005)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        began = time.monotonic()
        assert await asyncio.gather(*map(square, range(20))) == [n * n for n in range(20)]
        assert time.monotonic() - began < 5
        await cache.aio.close()
