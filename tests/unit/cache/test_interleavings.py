"""Two processes and one store, their messages in every order: an invalidation always wins.

Whoever calls after an invalidation has ended, in whichever process, is served nothing older, also
where the value is found or loaded by a caller of before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from datakit.cache import Cache
from datakit.cache.backends.base import OPERATIONS
from datakit.cache.backends.memory import MemoryBackend
from datakit.testing import FakeClock

TTL = 60.0
STALE = 3600.0
KEYS = (1, 2)
RANKED_ANEW = 0.15
SETTLED_AFTER = 8
"""Rounds of the event loop after which every task waits for its turn."""


class Lost(Exception):
    """What a load raises that fails."""


class Turns:
    """Lets one thing happen at a time: that of the task of the highest rank, given by chance.

    Chance gives it another rank now and then. So some are held up for long, as a slow reply is.

    Source: Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding
    Bugs", ASPLOS 2010.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ranks: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    async def take(self) -> None:
        task = asyncio.current_task()
        if task not in self._ranks or self._random.random() < RANKED_ANEW:
            self._ranks[task] = self._random.random()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((self._ranks[task], turn))
        await turn

    async def run(self, work: Sequence[Awaitable[None]]) -> None:
        tasks = [asyncio.ensure_future(one) for one in work]
        while not all(task.done() for task in tasks):
            for _ in range(SETTLED_AFTER):
                await asyncio.sleep(0)
            if self._waiting:
                first = max(self._waiting, key=lambda one: one[0])
                self._waiting.remove(first)
                if not first[1].done():  # cancelled
                    first[1].set_result(None)
        await asyncio.gather(*tasks)


class Wire:
    """A store far away: time passes before it is asked, and before its answer comes."""

    max_value = 1e6

    def __init__(self, store: MemoryBackend, turns: Turns) -> None:
        for name in OPERATIONS:
            setattr(self, name, self._far(getattr(store, name), turns))

    @staticmethod
    def _far(ask: Callable[..., Any], turns: Turns) -> Callable[..., Awaitable[Any]]:
        async def operation(*args: Any) -> Any:
            await turns.take()
            answer = ask(*args)
            await turns.take()
            return answer

        return operation


class World:
    """The data has versions. Loads read one, invalidations come after a new one."""

    def __init__(self, random: Random, *, storable: bool) -> None:
        self.random = random
        self.turns = Turns(random)
        self.clock = FakeClock()
        store = MemoryBackend(100, by_bytes=False, clock=self.clock)
        self.caches = [self._process(store) for _ in range(2)]
        self.version: dict[int, int] = dict.fromkeys(KEYS, 0)
        self.floor: dict[int, int] = dict.fromkeys(KEYS, 0)
        options: Any = {"ttl": TTL, "stale_if_error": STALE, "cache_if": lambda _: storable}
        self.one = [self._one(cache, options) for cache in self.caches]
        self.many = [self._many(cache, options) for cache in self.caches]

    def _process(self, store: MemoryBackend) -> Cache:
        cache = Cache("redis://nowhere", clock=self.clock)
        backends = cache.fetchers.for_tasks._backends
        backends._pair = store, Wire(store, self.turns)
        return cache

    async def load(self, key: int) -> int:
        await self.turns.take()
        version = self.version[key]
        await self.turns.take()
        if self.random.random() < 0.4:
            raise Lost
        return version

    def _one(self, cache: Cache, options: Any) -> Any:
        @cache.cached(key="k:{n}", **options)
        async def one(n: int) -> int:
            return await self.load(n)

        return one

    def _many(self, cache: Cache, options: Any) -> Any:
        @cache.cached_many(by="ids", key="k:{ids}", **options)
        async def many(ids: Sequence[int]) -> dict[int, int]:
            found = {n: await self.load(n) for n in ids}
            return {n: version for n, version in found.items() if version % 3 != 2}

        return many

    async def call_one(self, process: int, key: int) -> None:
        await self.turns.take()
        floor = self.floor[key]
        with suppress(Lost):
            assert await self.one[process](key) >= floor

    async def call_many(self, process: int) -> None:
        await self.turns.take()
        floor = dict(self.floor)
        try:
            found = await self.many[process](KEYS)
        except Lost:
            return
        for key, version in found.items():
            assert version >= floor[key]
        for key in KEYS:
            was_ever_absent = any(v % 3 == 2 for v in range(floor[key], self.version[key] + 1))
            assert key in found or was_ever_absent

    async def invalidate(self, process: int, key: int) -> None:
        await self.turns.take()
        self.version[key] += 1
        version = self.version[key]
        await self.one[process].invalidate(key)
        self.floor[key] = max(self.floor[key], version)

    async def begin(self, *, is_stored: bool) -> None:
        if is_stored:
            fill = [self.one[0].put(self.version[key], key) for key in KEYS]
            await self.turns.run(fill)
            self.clock.advance(self.random.choice([1.0, TTL + 1]))

    async def run(self) -> None:
        await self.begin(is_stored=self.random.random() < 0.7)
        work: list[Awaitable[None]] = [self.invalidate(process, 1) for process in (0, 1)]
        work += [self.call_one(self.random.randrange(2), 1) for _ in range(5)]
        work += [self.call_many(self.random.randrange(2)) for _ in range(3)]
        await self.turns.run(work)


@pytest.mark.parametrize("storable", [True, False])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_nothing_older_than_an_invalidation_is_served_after_it(storable: bool, seed: int) -> None:
    """Values that are stored, and those that are only shared."""
    asyncio.run(World(Random(seed), storable=storable).run())
