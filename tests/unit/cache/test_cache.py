"""The cache's own promises, with a store that fails on command."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from tests.unit.cache.store import Store

from datakit import events
from datakit.cache import Cache, cached, default
from datakit.cache.backends.memory import AsyncMemoryBackend
from datakit.cache.codec import plain_codec
from datakit.cache.core import RENEWED_AGAIN
from datakit.cache.policy import LEASE
from datakit.cache.suspects import MAX_SUSPECTS, Suspects
from datakit.cache.ttl import lifetime
from datakit.errors import CacheUnavailableError, ConfigError
from datakit.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


class Sync:
    """The cache under test from threads; `Async` is its twin."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.get, self.set, self.delete = cache.get, cache.set, cache.delete
        self.get_or_load = cache.get_or_load


class Async:
    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return lambda *args: asyncio.run(getattr(self.cache.aio, name)(*args))

    def get_or_load(self, key: str, loader: Callable[[], Any], ttl: Any) -> Any:
        async def load() -> Any:
            return loader()

        return asyncio.run(self.cache.aio.get_or_load(key, load, ttl))


@pytest.fixture(params=[Sync, Async])
def side(request: pytest.FixtureRequest, store: Store, clock: FakeClock) -> Any:
    cache = Cache(clock=clock)
    backends = cache.fetchers.for_threads._backends
    backends._pair = store, AsyncMemoryBackend(store)
    return request.param(cache)


def test_invalidation_during_the_store_wins(side: Any, store: Store) -> None:
    """The store compares the lease, which the invalidation has ended."""
    store.before_fill = lambda: store.delete(["k"])
    assert side.get_or_load("k", lambda: 1, 60) == 1
    assert side.get("k") is None


def test_doubt_ends_with_an_invalidation_that_gets_through(side: Any, store: Store) -> None:
    """It is tried again by the next use of the key."""
    side.set("k", 1, 60)
    store.broken = True
    with pytest.raises(CacheUnavailableError, match="delete of 'k'"):
        side.delete("k")
    assert side.get("k") is None
    store.broken = False
    assert side.get_or_load("k", lambda: 2, 60) == 2
    assert side.get("k") == 2
    assert not side.cache.fetchers.core.suspects.any


def test_forgotten_doubts_distrust_everything_older(
    side: Any, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set of doubts is bounded, and the bound costs hits, not right answers."""
    monkeypatch.setattr("datakit.cache.suspects.MAX_SUSPECTS", 2)
    for name in "abc":
        side.set(name, name, 3600)
    store.broken = True
    for name in "abc":
        with pytest.raises(CacheUnavailableError):
            side.delete(name)
    store.broken = False
    assert [side.get(name) for name in "abc"] == [None, None, None]
    clock.advance(61)
    side.set("a", "new", 3600)
    assert side.get("a") == "new"
    assert side.get("b") is None


def test_failed_fill_returns_the_value_and_tells(side: Any, store: Store) -> None:
    """One event, no error."""
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)

    def load() -> int:
        store.broken = True
        return 5

    assert side.get_or_load("k", load, 60) == 5
    unsubscribe()
    assert seen == [events.CacheMiss("k"), events.CacheUnavailable("fill", "Broken")]


def test_doubt_ends_when_the_ttl_has_passed() -> None:
    """What was stored has expired then."""
    suspects = Suspects()
    suspects.add("k", until=10.0, now=0.0)
    assert suspects.find("k", 9.9) is not None
    assert suspects.find("k", 10.0) is None
    assert not suspects.any


def test_newer_doubt_outlives_an_older_invalidation() -> None:
    """Only the doubt that an invalidation knew of is settled by it."""
    suspects = Suspects()
    suspects.add("k", until=10.0, now=0.0)
    older = suspects.find("k", 0.0)
    suspects.add("k", until=10.0, now=0.0)
    suspects.settle("k", older)
    assert suspects.find("k", 0.0) is not None


def test_doubts_are_bounded() -> None:
    """Expired ones go first; then all, which the caller is told."""
    suspects = Suspects()
    for n in range(MAX_SUSPECTS):
        assert suspects.add(str(n), until=10.0, now=0.0)
    assert suspects.add("after expiry", until=30.0, now=20.0)
    for n in range(MAX_SUSPECTS - 1):
        assert suspects.add(str(n), until=30.0, now=20.0)
    assert not suspects.add("one more", until=30.0, now=20.0)


def test_memory_is_bounded() -> None:
    """By items."""
    cache = Cache(max_items=10)
    for n in range(100):
        cache.set(str(n), n, 60)
    assert sum(cache.get(str(n)) is not None for n in range(100)) == 10


def test_twins_have_one_signature() -> None:
    """`cache.aio` has the names of the cache, awaitable."""
    cache = Cache()
    names = {n for n in dir(cache.aio) if not n.startswith("_")}
    assert names == {n for n in dir(cache) if not n.startswith("_")} - {
        "aio", "cached", "cached_many", "fetchers", "stats"
    }  # fmt: skip
    for name in names:
        sync, task = getattr(cache, name), getattr(cache.aio, name)
        assert inspect.iscoroutinefunction(task)
        assert list(inspect.signature(sync).parameters) == list(inspect.signature(task).parameters)


def test_cached_twins_have_one_signature() -> None:
    """The helpers of `def` and `async def`; only `key` is not awaited."""

    @cached(ttl=60)
    def one(x: int) -> int:
        return x

    @cached(ttl=60)
    async def other(x: int) -> int:
        return x

    for name in ("__call__", "peek", "refresh", "put", "invalidate"):
        assert inspect.iscoroutinefunction(getattr(other, name))
        parameters = [inspect.signature(getattr(f, name)).parameters for f in (one, other)]
        assert list(parameters[0]) == list(parameters[1])
    assert one.key(1).replace(".one:", ".other:") == other.key(1)
    assert one.__wrapped__.__name__ == vars(one)["__name__"] == "one"
    assert inspect.signature(one) == inspect.signature(one.__wrapped__)


def test_sync_and_async_share_the_memory() -> None:
    """One cache, two doors."""
    cache = Cache()
    cache.set("k", 1, 60)
    assert asyncio.run(cache.aio.get("k")) == 1


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("target", "hint"),
    [(generator, "generator"), (len, "def"), (staticmethod(generator), "above"),
     (lambda x: x, "key=")],
)  # fmt: skip
def test_what_cannot_be_cached_is_refused(target: Any, hint: str) -> None:
    """At decoration, with a way out."""
    with pytest.raises(ConfigError, match=hint):
        Cache().cached(ttl=60)(target)


def test_default_cache_reads_the_environment_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at decoration."""
    default.default_cache.cache_clear()

    @cached(ttl=60)
    def one(x: int) -> int:
        return x

    monkeypatch.setenv("DATAKIT_CACHE_URL", "nonsense://")
    with pytest.raises(ConfigError, match="scheme"):
        one(1)
    monkeypatch.setenv("DATAKIT_CACHE_URL", "")
    assert (one(1), one.peek(1)) == (1, 1)
    default.default_cache.cache_clear()


def test_import_and_construction_load_no_driver() -> None:
    """Nor do they open anything."""
    code = (
        "import sys, datakit.cache as c; c.Cache('redis://h'); "
        "print([m for m in ('redis', 'dns', 'cachebox', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_took_longer_than_a_lease_to_load_is_kept(side: Any, clock: FakeClock) -> None:
    """Nobody else has loaded it meanwhile."""
    loads = count(1)

    def load() -> int:
        clock.advance(30)
        return next(loads)

    assert [side.get_or_load("k", load, 60) for _ in range(2)] == [1, 1]


def test_the_lease_of_a_key_grows_with_its_loads(side: Any) -> None:
    core = side.cache.fetchers.core
    for took, lease in ((30.0, LEASE), (0.1, 60.0), (0.1, 60.0)):
        with core.policy("slow", plain_codec("msgpack"), lifetime(60)) as policy:
            assert policy.lease == lease
            policy.took(took)
    with core.policy("another", plain_codec("msgpack"), lifetime(60)) as policy:
        assert policy.lease == LEASE


def test_a_renewal_that_never_ends_counts_for_the_time_of_its_lease(clock: FakeClock) -> None:
    """As that of an event loop that was closed."""
    core = Cache(clock=clock, max_loads=2).fetchers.core
    assert [core.begin_renewal(key, 10.0) for key in "aabc"] == [True, False, True, False]
    clock.advance(10.0)
    assert core.begin_renewal("c", 10.0)


def test_renewals_that_have_ended_keep_no_others_from_theirs(clock: FakeClock) -> None:
    core = Cache(clock=clock, max_loads=2).fetchers.core
    for n in range(100):
        assert core.begin_renewal(str(n), 10.0)
        core.end_renewal(str(n))
    assert not core.begin_renewal("7", 10.0)  # it may have failed: not at once again
    clock.advance(RENEWED_AGAIN)
    assert core.begin_renewal("7", 10.0)


def test_renewals_of_many_threads_get_in_nobodys_way() -> None:
    core = Cache(max_loads=8).fetchers.core

    def renew(n: int) -> None:
        for i in range(20_000):
            key = str(i * n % 5000)
            if core.begin_renewal(key, 0.0):
                core.end_renewal(key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(renew, range(1, 9)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    "options",
    [{"refresh_ahead": 0.5}, {"stale_while_revalidate": 5}, {"stale_if_error": "1h"}],
)
def test_values_alone_are_not_served_by_their_age(options: Any) -> None:
    """They do not tell it."""
    cache = Cache("redis://127.0.0.1:1", codec="json", envelope=False)
    with pytest.raises(ConfigError, match="envelope"):
        cache.cached(ttl=60, **options)
