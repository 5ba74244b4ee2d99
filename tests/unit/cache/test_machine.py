"""The cache against a model: whatever happens in whatever order, sync and async."""

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.cache.store import Store

from datakit.cache import Cache
from datakit.cache.backends.memory import AsyncMemoryBackend
from datakit.errors import CacheUnavailableError
from datakit.testing import FakeClock

TTL = 60.0
STALE = 30.0
KEYS = st.sampled_from("abc")


class Lost(Exception):
    """What the function under test raises when its source is gone."""


class Machine(RuleBasedStateMachine):
    """The data has versions. What is served must have been current when the rules allow it.

    The model knows when each version came, and the last moment at which the cache was told to
    forget (whether or not that got through). A value is right when its version was current at some
    moment since then, and not longer ago than a value may live.
    """

    is_async: bool

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.cache = Cache(clock=self.clock)
        backends = self.cache.fetchers.for_threads._backends
        backends._pair = self.store, AsyncMemoryBackend(self.store)
        self.versions: dict[str, list[float]] = {key: [0.0] for key in "abc"}
        self.forgotten_at: dict[str, float] = dict.fromkeys("abc", 0.0)
        self.fresh_since: dict[str, float | None] = dict.fromkeys("abc")
        self.is_lost = False
        self.loads = 0
        self.meddle: Callable[[], None] = lambda: None
        self.function: Any = self.make()

    def make(self) -> Any:
        options: Any = {"ttl": TTL, "stale_if_error": STALE}

        def load(key: str) -> tuple[str, int]:
            self.loads += 1
            if self.is_lost:
                raise Lost
            loaded = (key, len(self.versions[key]) - 1)
            meddle, self.meddle = self.meddle, lambda: None
            meddle()
            return loaded

        if self.is_async:

            @self.cache.cached(**options)
            async def read(key: str) -> tuple[str, int]:
                await asyncio.sleep(0)
                return load(key)

            return read

        @self.cache.cached(**options)
        def read_sync(key: str) -> tuple[str, int]:
            return load(key)

        return read_sync

    def do(self, method: Callable[..., Any], *args: Any) -> Any:
        """Return what a method returns, awaited where that is due."""
        if not inspect.iscoroutinefunction(method) and not self.is_async:
            return method(*args)

        async def call() -> Any:
            return await method(*args)

        return asyncio.run(call())

    def now(self) -> float:
        return self.clock.monotonic()

    def check(self, key: str, found: tuple[str, int], life: float) -> None:
        """`found` was current since the cache was told to forget, at most `life` seconds ago."""
        assert found[0] == key
        version, came = found[1], self.versions[key]
        replaced_at = came[version + 1] if version + 1 < len(came) else math.inf
        assert replaced_at > self.forgotten_at[key], "older than the last invalidation"
        assert replaced_at >= self.now() - life, "older than it may be"

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        """Nothing but the function's own error reaches the caller."""
        before, healthy = self.loads, not self.store.broken
        since = self.fresh_since[key]
        is_fresh = since is not None and self.now() < since + 0.9 * TTL
        try:
            found = self.do(self.function, key)
        except Lost:
            assert self.is_lost
            return
        self.check(key, found, TTL + STALE)
        if healthy and is_fresh:
            assert self.loads == before, "a fresh value was loaded again"
        if self.loads > before and not self.is_lost:
            self.fresh_since[key] = self.now() if healthy else None

    @rule(key=KEYS)
    def peek(self, key: str) -> None:
        """It never loads, and never gives what is past its time."""
        before = self.loads
        found = self.do(self.function.peek, key)
        assert self.loads == before
        if found is not None:
            self.check(key, found, TTL)

    @rule(key=KEYS)
    def change(self, key: str) -> None:
        """The data changes and nobody tells the cache."""
        self.clock.advance(1)
        self.versions[key].append(self.now())

    @rule(key=KEYS)
    def change_and_invalidate(self, key: str) -> None:
        """The data changes and the cache is told, in vain or not."""
        self.change(key)
        self.invalidate(key)

    def invalidate(self, key: str) -> None:
        self.forgotten_at[key] = self.now()
        self.fresh_since[key] = None
        try:
            self.do(self.function.invalidate, key)
        except CacheUnavailableError:
            assert self.store.broken

    @rule(key=KEYS)
    def invalidate_during_the_load(self, key: str) -> None:
        """What the load gives is of before the change: it is returned, and not kept."""
        forgotten_at = self.forgotten_at[key]

        def meddle() -> None:
            self.clock.advance(1)
            self.versions[key].append(self.now())
            self.forgotten_at[key] = self.now()
            self.fresh_since[key] = None
            try:
                self.cache.delete(self.function.key(key))
            except CacheUnavailableError:
                assert self.store.broken

        self.meddle = meddle
        version = len(self.versions[key]) - 1
        try:
            found = self.do(self.function, key)
        except Lost:
            found = None
        was_loaded, self.meddle = self.meddle is not meddle, lambda: None
        if not was_loaded:
            assert self.forgotten_at[key] == forgotten_at
            return
        assert found == (key, version)
        again = self.do(self.function.peek, key)
        assert again is None or again[1] > version

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        """What is put is what is served."""
        value = (key, len(self.versions[key]) - 1)
        self.forgotten_at[key] = self.versions[key][-1]
        try:
            self.do(self.function.put, value, key)
        except CacheUnavailableError:
            assert self.store.broken
            self.fresh_since[key] = None
        else:
            assert self.do(self.function.peek, key) == value
            self.fresh_since[key] = self.now()

    @rule(key=KEYS)
    def refresh(self, key: str) -> None:
        """The value of now, whatever was kept."""
        try:
            found = self.do(self.function.refresh, key)
        except Lost:
            assert self.is_lost
            return
        assert found == (key, len(self.versions[key]) - 1)
        self.forgotten_at[key] = self.versions[key][-1]
        self.fresh_since[key] = None if self.store.broken else self.now()

    @rule(seconds=st.sampled_from([0.5, 10.0, 50.0, 61.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def lose_or_regain_the_store(self) -> None:
        self.store.broken = not self.store.broken

    @rule()
    def lose_or_regain_the_source(self) -> None:
        self.is_lost = not self.is_lost

    @rule()
    def evict(self) -> None:
        """The store forgets of its own accord."""
        self.store.entries.clear()
        self.fresh_since = dict.fromkeys("abc")

    @invariant()
    def nothing_is_left_behind(self) -> None:
        """No load outlives its call."""
        assert not self.cache.fetchers.for_threads._flight._flights


class SyncMachine(Machine):
    is_async = False


class AsyncMachine(Machine):
    is_async = True


TestSync = SyncMachine.TestCase
TestSync.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAsync = AsyncMachine.TestCase
TestAsync.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
