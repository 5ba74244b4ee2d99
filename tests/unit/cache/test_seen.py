"""What a cache tells about itself: counts, events, explanations."""

import asyncio
from typing import Any

import pytest
from tests.unit.cache.store import Store

from datakit import events
from datakit.cache import Cache, CacheStats
from datakit.cache.backends.memory import AsyncMemoryBackend
from datakit.errors import CacheUnavailableError, CodecError, ConfigError
from datakit.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


def cache_on(store: Store, clock: FakeClock, **options: Any) -> Cache:
    cache = Cache(clock=clock, **options)
    cache.fetchers.for_threads._backends._pair = store, AsyncMemoryBackend(store)
    return cache


def test_counts(store: Store, clock: FakeClock) -> None:
    """Of everything that a dashboard wants."""
    cache = cache_on(store, clock)
    fail = False

    @cache.cached(ttl=60, stale_if_error=60)
    def double(n: int) -> int:
        if fail:
            raise KeyError(n)
        return 2 * n

    assert cache.stats() == CacheStats()
    double(1)
    double(1)
    double(1)
    assert cache.stats() == CacheStats(hits=2, misses=1, loads=1, stores=1)
    clock.advance(70)
    fail = True
    double(1)
    double.invalidate(1)
    with pytest.raises(KeyError):
        double(1)
    stats = cache.stats()
    assert (stats.stale, stats.load_errors, stats.invalidations) == (1, 2, 1)
    store.broken = True
    with pytest.raises(CacheUnavailableError):
        double.invalidate(1)
    stats = cache.stats()
    assert (stats.failed_invalidations, stats.in_doubt, stats.unavailable) == (1, 1, 1)


def test_lost_writes_and_outrun_loads_are_counted(store: Store, clock: FakeClock) -> None:
    """The value is returned all the same."""
    cache = cache_on(store, clock)

    def lose() -> int:
        store.broken = True
        return 1

    assert cache.get_or_load("a", lose, 60) == 1
    store.broken = False
    store.before_fill = lambda: store.delete(["b"])
    assert cache.get_or_load("b", lambda: 2, 60) == 2
    assert (cache.stats().lost_writes, cache.stats().outrun) == (1, 1)


def test_daily_events_only_when_somebody_subscribes(store: Store, clock: FakeClock) -> None:
    """A hit makes no record otherwise."""
    cache = cache_on(store, clock)

    @cache.cached(ttl=60, key="d:{n}")
    def double(n: int) -> int:
        return 2 * n

    seen: list[events.Event] = []
    double(1)
    unsubscribe = events.subscribe(seen.append)
    double(1)
    double(2)
    unsubscribe()
    double(1)
    stored = [event for event in seen if isinstance(event, events.CacheStored)]
    assert [type(event).__name__ for event in seen] == ["CacheHit", "CacheMiss", "CacheStored"]
    assert stored[0].key == "d:2"
    assert 53 < stored[0].seconds <= 60


def test_explain(store: Store, clock: FakeClock) -> None:
    """What a call would find, and why; it neither runs nor stores nor counts."""
    cache = cache_on(store, clock)
    runs: list[int] = []

    @cache.cached(ttl=100, refresh_ahead=0.5, stale_while_revalidate=50, stale_if_error=100)
    def double(n: int) -> list[int]:
        runs.append(n)
        return [2 * n]

    def verdict() -> str:
        return cache.explain(double, 1).verdict

    empty = cache.explain(double, n=1)
    assert (empty.key, empty.verdict, empty.size) == (double.key(1), "miss", None)
    assert "nothing is stored" in empty.reason
    double(1)
    fresh = cache.explain(double, 1)
    assert (fresh.verdict, fresh.size, fresh.age) == ("hit", 2, 0)
    assert fresh.fresh_for is not None
    assert 90 <= fresh.fresh_for <= 100
    found = [verdict()]
    for seconds in (60, 45, 55, 100):
        clock.advance(seconds)
        found.append(verdict())
    expected = ["hit", "refresh ahead", "stale while revalidating", "stale if error", "miss"]
    assert found == expected
    assert runs == [1]
    assert cache.stats().hits == 0
    store.broken = True
    assert cache.explain(double, 1).verdict == "unavailable"
    with pytest.raises(CacheUnavailableError):
        double.invalidate(1)
    store.broken = False
    assert cache.explain(double, 1).in_doubt
    with pytest.raises(ConfigError, match="decorated"):
        cache.explain(len, "x")


def test_explain_a_value_that_is_not_judged_by_its_time(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from the future, and one older than doubts that were forgotten."""
    cache = cache_on(store, clock)

    @cache.cached(ttl="1h")
    def double(n: int) -> int:
        return 2 * n

    double(1)
    clock._wall -= 600  # a step back, which FakeClock has no name for
    ahead = cache.explain(double, 1)
    assert (ahead.verdict, ahead.age) == ("miss", -600)
    assert ahead.reason.startswith("it was stored 600.0 s in the future")
    monkeypatch.setattr("datakit.cache.suspects.MAX_SUSPECTS", 1)
    double(2)
    store.broken = True
    for name in "ab":
        with pytest.raises(CacheUnavailableError):
            cache.delete(name)
    store.broken = False
    distrusted = cache.explain(double, 2)
    assert distrusted.verdict == "miss"
    assert distrusted.reason.startswith("too many invalidations failed")


def test_explain_from_tasks(store: Store, clock: FakeClock) -> None:
    """The same, awaited; both explain both kinds."""
    cache = cache_on(store, clock)

    @cache.cached(ttl=60)
    async def double(n: int) -> int:
        return 2 * n

    async def main() -> None:
        assert (await cache.aio.explain(double, 1)).verdict == "miss"
        await double(1)
        assert (await cache.aio.explain(double, 1)).verdict == "hit"
        assert cache.explain(double, 1).verdict == "hit"

    asyncio.run(main())


def test_an_invalidation_that_queues(store: Store, clock: FakeClock) -> None:
    """It raises nothing, the key is not served, and it is tried again by whoever uses the cache."""
    cache = cache_on(store, clock, on_invalidate_error="queue")
    cache.set("a", "old", 600)
    cache.set("b", "other", 600)
    store.broken = True
    cache.delete("a")
    assert cache.get("a") is None
    assert cache.stats().in_doubt == 1
    store.broken = False
    clock.advance(2)
    assert store.get("a") is not None
    assert cache.get("b") == "other"  # another key's read brings it through
    assert store.get("a") is None
    assert cache.stats().in_doubt == 0


def test_memory_is_bounded_by_bytes() -> None:
    """A value larger than all of it is not kept."""
    cache = Cache(max_bytes=100_000)
    for n in range(1000):
        cache.set(str(n), "x" * 1000, 60)
    kept = sum(cache.get(str(n)) is not None for n in range(1000))
    assert 50 < kept < 100
    assert cache.get_or_load("large", lambda: "x" * 200_000, 60) == "x" * 200_000
    assert cache.get("large") is None


def test_pydantic_models_are_typed() -> None:
    """When pydantic is there."""
    import pydantic

    class Item(pydantic.BaseModel):
        id: int
        tags: list[str] = []

    cache = Cache()

    @cache.cached(ttl=60)
    def find(n: int) -> list[Item] | None:
        return [Item(id=n, tags=["a"])]

    find(1)
    found = find(1)
    assert found == [Item(id=1, tags=["a"])]
    assert cache.stats().hits == 1


def test_a_value_larger_than_the_memory_is_returned() -> None:
    """And told as what it is: nothing is lost, no load has to wait for its turn."""
    cache = Cache(max_bytes=100_000)
    seen: list[events.Event] = []

    @cache.cached(ttl=60)
    def text(n: int) -> str:
        return "x" * n

    unsubscribe = events.subscribe(seen.append)
    assert len(text(200_000)) == 200_000
    unsubscribe()
    assert [type(event) for event in seen] == [events.CacheMiss, events.CacheValueRejected]
    with pytest.raises(CodecError, match="at most"):
        cache.set("k", "x" * 200_000, 60)
    assert cache.stats().unavailable == 0


def test_explain_of_another_cache_is_refused() -> None:
    """It would look into the wrong one."""

    @Cache().cached(ttl=60)
    def double(n: int) -> int:
        return 2 * n

    with pytest.raises(ConfigError, match="another cache"):
        Cache().explain(double, 1)
