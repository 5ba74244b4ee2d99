"""When a value is loaded anew, and what is served meanwhile: every store, both sides."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from tests.integration.cache.conftest import Loader, SyncSide

from datakit import events
from datakit.cache import Cache
from datakit.errors import CodecError, ConfigError, DeadlineExceededError
from datakit.resilience import deadline
from datakit.testing import FakeClock


def test_refresh_ahead_loads_the_next_value_before_the_end(
    side: Any, product: Any, clock: FakeClock
) -> None:
    """Once, past the share of the TTL; nobody meets an expired value."""
    load = Loader(product)
    get_product = side.function(load, ttl=100, refresh_ahead=0.5)
    get_product(7)
    clock.advance(40)
    get_product(7)
    assert load.calls == 1
    clock.advance(20)
    assert get_product(7).name in ("name 1", "name 2")
    side.drain()
    assert [get_product(7).name for _ in range(3)] == ["name 2"] * 3
    assert load.calls == 2
    clock.advance(60)
    get_product(7)
    side.drain()
    assert load.calls == 3


def test_refresh_ahead_that_fails_serves_what_is_there(
    side: Any, product: Any, clock: FakeClock, seen: list[events.Event]
) -> None:
    """It is told by an event and not tried again at once."""
    load = Loader(product)
    get_product = side.function(load, ttl=100, refresh_ahead=0.5)
    get_product(7)
    clock.advance(60)
    load.error = KeyError("lost")
    for _ in range(3):
        assert get_product(7).name == "name 1"
        side.drain()
    assert load.calls == 2
    assert seen == [events.CacheLoadFailed(get_product.key(7), "KeyError")]
    clock.advance(2)
    load.error = None
    get_product(7)
    side.drain()
    assert get_product(7).name == "name 3"


def test_stale_while_revalidate(side: Any, product: Any, clock: FakeClock) -> None:
    """Past its TTL one caller has the value loaded anew; past the window it is a miss."""
    load = Loader(product)
    get_product = side.function(load, ttl=60, stale_while_revalidate="1m")
    get_product(7)
    clock.advance(70)
    assert get_product(7).name in ("name 1", "name 2")
    side.drain()
    assert get_product(7).name == "name 2"
    assert load.calls == 2
    clock.advance(130)
    assert get_product(7).name == "name 3"


def test_others_get_the_stale_value_while_one_loads(
    side_of: Any, url: str, product: Any, clock: FakeClock
) -> None:
    """In this process and in another one: nobody waits."""
    namespace = uuid.uuid4().hex
    cache = Cache(url, namespace=namespace, timeout=5, clock=clock)
    other = cache if url == "memory://" else Cache(url, namespace=namespace, timeout=5, clock=clock)
    loading, go_on = threading.Event(), threading.Event()

    def load(product_id: int) -> Any:
        if calls:
            loading.set()
            assert go_on.wait(10)
        calls.append(product_id)
        return product(product_id, f"name {len(calls)}", [])

    calls: list[int] = []
    options: Any = {"ttl": 60, "stale_while_revalidate": 60, "key": "p:{product_id}"}
    get_product = SyncSide(cache).function(load, **options)
    theirs = side_of(other).function(load, **options)
    get_product(7)
    clock.advance(70)
    with ThreadPoolExecutor(1) as pool:
        renewed = pool.submit(get_product, 7)
        assert loading.wait(10)
        assert get_product(7).name == "name 1"
        assert theirs(7).name == "name 1"
        go_on.set()
        assert renewed.result().name == "name 2"
    assert len(calls) == 2
    assert theirs(7).name == "name 2"
    cache.close()
    other.close()


def test_refreshing_threads_load_behind_the_callers_back(
    url: str, product: Any, clock: FakeClock
) -> None:
    """The caller gets the old value at once; the deadline of the caller does not end the load."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5, clock=clock, refresh_threads=1)
    threads: list[str] = []

    def load(product_id: int) -> Any:
        threads.append(threading.current_thread().name)
        assert deadline.remaining() is None or len(threads) == 1
        return product(product_id, f"name {len(threads)}", [])

    side = SyncSide(cache)
    get_product = side.function(load, ttl=60, stale_while_revalidate=60)
    get_product(7)
    clock.advance(70)
    with deadline(60):
        assert get_product(7).name == "name 1"
    side.drain()
    assert get_product(7).name == "name 2"
    assert threads[1].startswith("datakit-refresh")
    cache.close()


def test_a_caller_refreshes_where_no_thread_can_be_started(
    url: str, product: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the interpreter shuts down, or at the system's limit of threads."""
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5, clock=clock, refresh_threads=1)
    names = iter("abc")
    get_product = SyncSide(cache).function(
        lambda n: product(n, next(names), []), ttl=60, stale_while_revalidate=60
    )
    assert get_product(7).name == "a"
    clock.advance(70)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert get_product(7).name == "b"
    cache.close()


def test_stale_if_error(
    side: Any, product: Any, clock: FakeClock, seen: list[events.Event]
) -> None:
    """A load that fails is told by an event, and hidden as long as the window says."""
    load = Loader(product)
    get_product = side.function(load, ttl=60, stale_if_error="1h")
    get_product(7)
    clock.advance(70)
    assert get_product(7).name == "name 2"
    load.error = KeyError("lost")
    clock.advance(3600)
    assert get_product(7).name == "name 2"
    key = get_product.key(7)
    assert seen == [events.CacheLoadFailed(key, "KeyError"), events.CacheStaleServed(key)]
    clock.advance(70)
    with pytest.raises(KeyError):
        get_product(7)


def test_a_failed_load_leaves_the_lease_to_the_next(side: Any, product: Any) -> None:
    """Nobody waits for a lease whose holder has given up."""
    load = Loader(product)
    load.error = KeyError("lost")
    get_product = side.function(load)
    with pytest.raises(KeyError):
        get_product(7)
    load.error = None
    assert get_product(7).name == "name 2"


def test_soft_timeout_serves_what_is_there(
    url: str, side_of: Any, product: Any, clock: FakeClock
) -> None:
    """And the load goes on: its value is there for the next caller."""
    options: dict[str, Any] = {"refresh_threads": 1}
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5, clock=clock, **options)
    side = side_of(cache)
    go_on = threading.Event()
    load = Loader(product)

    def slow(product_id: int) -> Any:
        if load.calls:
            assert go_on.wait(10)
        return load(product_id)

    get_product = side.function(slow, ttl=60, stale_if_error="1h", soft_load_timeout=0.05)
    get_product(7)
    clock.advance(70)
    assert get_product(7).name == "name 1"
    go_on.set()
    side.drain()
    assert get_product(7).name == "name 2"
    assert load.calls == 2


def test_soft_timeout_without_anything_to_serve_is_refused(cache: Cache) -> None:
    """It would mean nothing."""
    with pytest.raises(ConfigError, match="stale_if_error"):
        cache.cached(ttl=60, soft_load_timeout=1)


async def test_hard_timeout_ends_the_load(cache: Cache) -> None:
    """Tasks are cancelled, functions are told; what is stale is served where that is allowed."""
    import asyncio

    ended: list[str] = []

    @cache.cached(ttl=60, load_timeout=0.05)
    async def slow(n: int) -> int:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return n

    with pytest.raises(DeadlineExceededError, match="loading"):
        await slow(7)
    assert ended == ["cancelled"]

    @cache.cached(ttl=60, load_timeout=0.05)
    def told(n: int) -> float:
        left = deadline.remaining()
        assert left is not None
        return left

    assert 0 < await asyncio.to_thread(told, 7) <= 0.05
    cache.close()
    await cache.aio.close()


def test_none_has_a_life_of_its_own(side: Any, clock: FakeClock) -> None:
    """`none_ttl`, while others have `ttl`."""
    calls: list[int] = []
    find = side.function(calls.append, ttl=60, none_ttl=10)
    find(7)
    clock.advance(8)
    find(7)
    assert len(calls) == 1
    clock.advance(3)
    find(7)
    assert len(calls) == 2


def test_none_that_is_not_to_be_kept(side: Any) -> None:
    """`none_ttl=0`."""
    calls: list[int] = []
    find = side.function(calls.append, none_ttl=0)
    find(7)
    find(7)
    assert len(calls) == 2


def test_cache_if_says_what_is_kept(side: Any, product: Any) -> None:
    """A result that it refuses is returned."""
    load = Loader(product)
    get_product = side.function(load, cache_if=lambda found: found.name != "name 1")
    assert [get_product(7).name for _ in range(3)] == ["name 1", "name 2", "name 2"]


def wrong(found: Any) -> Any:
    if found.name != "name 1":
        return "60s"
    raise KeyError(found.name)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"ttl": wrong}, "ttl= gave no answer about a Product: KeyError"),
     ({"ttl": lambda found: "60s" if found.name != "name 1" else "x"},
      "ttl= gave no answer about a Product: ConfigError"),
     ({"cache_if": wrong}, "cache_if= gave no answer about a Product: KeyError")],
)  # fmt: skip
def test_a_rule_that_fails_costs_the_place_in_the_cache_alone(
    side: Any, product: Any, seen: list[events.Event], rule: Any, reason: str
) -> None:
    """The value is returned, an event and a count tell, and the lease is given back."""
    load = Loader(product)
    get_product = side.function(load, **rule)
    assert get_product(7).name == "name 1"
    assert seen == [events.CacheValueRejected(get_product.key(7), reason)]
    assert side.cache.stats().rejected == 1
    assert side.cache.stats().load_errors == 0
    assert get_product(7).name == get_product(7).name == "name 2"
    with pytest.raises(CodecError, match=reason):
        get_product.put(product(7, "name 1", []), 7)
    assert get_product.peek(7).name == "name 2"
    assert get_product.refresh(7).name == "name 3"


def test_a_rule_that_fails_for_one_of_many_keeps_the_others(side: Any, product: Any) -> None:
    """All are returned."""
    load_products = side.many(
        lambda ids: {n: product(n, f"name {n}", []) for n in ids}, ttl=lambda found: 60 / found.id
    )
    assert list(load_products([0, 1])) == [0, 1]
    assert list(load_products.peek([0, 1])) == [1]
    assert side.cache.stats().rejected == 1


def test_refresh_takes_the_lease_from_a_load_under_way(
    side: Any, cache: Cache, product: Any
) -> None:
    """What began before it is not stored after it."""
    loading, go_on = threading.Event(), threading.Event()
    names = iter(["old", "new"])

    def load(product_id: int) -> Any:
        name = next(names)
        if name == "old":
            loading.set()
            assert go_on.wait(10)
        return product(product_id, name, [])

    get_product = side.function(load, key="p:{product_id}")
    theirs = SyncSide(cache).function(load, key="p:{product_id}")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(theirs, 7)
        assert loading.wait(10)
        assert get_product.refresh(7).name == "new"
        go_on.set()
        assert late.result().name == "old"
    assert get_product(7).name == "new"
    cache.close()


def test_invalidate_then_call_never_joins_the_load_before_it(
    side: Any, cache: Cache, product: Any
) -> None:
    """The caller after an invalidation has a value of after the invalidation."""
    loading, go_on = threading.Event(), threading.Event()
    names = iter(["old", "new"])

    def load(product_id: int) -> Any:
        name = next(names)
        if name == "old":
            loading.set()
            assert go_on.wait(10)
        return product(product_id, name, [])

    mine = SyncSide(cache).function(load, key="p:{product_id}")
    get_product = side.function(load, key="p:{product_id}")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(mine, 7)
        assert loading.wait(10)
        get_product.invalidate(7)
        assert mine(7).name == "new"
        go_on.set()
        assert late.result().name == "old"
    assert get_product(7).name == "new"
    cache.close()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")  # what CPython raises at the system's limit


def test_soft_timeout_where_no_thread_is_to_be_had(
    url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller loads."""
    cache = Cache(url, namespace=uuid.uuid4().hex, clock=clock, refresh_threads=1)
    numbers = count(1)

    @cache.cached(ttl=60, stale_if_error="1h", soft_load_timeout=5)
    def load() -> int:
        return next(numbers)

    assert load() == 1
    clock.advance(70)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert load() == 2
    monkeypatch.undo()
    cache.close()


def test_loads_behind_the_callers_back_need_no_second_thread(url: str, clock: FakeClock) -> None:
    """One that asks for another value past its time loads that itself."""
    cache = Cache(url, namespace=uuid.uuid4().hex, clock=clock, refresh_threads=1)
    numbers = count(1)

    @cache.cached(ttl=60, stale_if_error="1h", soft_load_timeout=20)
    def inner() -> int:
        return next(numbers)

    @cache.cached(ttl=60, stale_if_error="1h", soft_load_timeout=40)
    def outer() -> int:
        return inner()

    assert outer() == 1
    clock.advance(70)
    assert outer() == 2  # and not 1, after 20 s
    cache.close()
