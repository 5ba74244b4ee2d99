"""A server that is lost under load: no error, no wrong value, and no flood of loads."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from datakit.cache import Cache
from datakit.testing import FaultProxy, MemcachedServer, RedisServer

CALLERS = 60
KEYS = 400
OUTAGE = 1.5
"""Seconds under load without the cache."""

BACK_WITHIN = 60.0
"""Seconds; it takes less than five on a machine at rest, and this is no measurement."""


class Loads:
    """Counts how many run, and how many ran at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = self.running = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.total += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.running -= 1


class SyncCrowd:
    """60 threads that read."""

    def __init__(self, cache: Cache, loads: Loads) -> None:
        self.cache = cache

        @cache.cached(ttl=60)
        def square(n: int) -> int:
            with loads:
                time.sleep(0.01)
            return n * n

        self.read = square

    def work(self, is_over: Callable[[], bool]) -> list[Any]:
        """Return each call's key, and its result or error."""
        ids = count()
        outcomes: list[Any] = []

        def reader(_: int) -> None:
            while not is_over():
                n = next(ids) % KEYS
                try:
                    outcomes.append((n, self.read(n)))
                except Exception as exc:  # noqa: BLE001 - what is being counted
                    outcomes.append((n, exc))

        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(reader, range(CALLERS)))
        return outcomes

    def close(self) -> None:
        self.cache.close()


class AsyncCrowd:
    """60 tasks that read."""

    def __init__(self, cache: Cache, loads: Loads) -> None:
        self.cache = cache
        self.runner = asyncio.Runner()

        @cache.cached(ttl=60)
        async def square(n: int) -> int:
            with loads:
                await asyncio.sleep(0.01)
            return n * n

        self.aread = square

    def work(self, is_over: Callable[[], bool]) -> list[Any]:
        """Return each call's key, and its result or error."""
        ids = count()
        outcomes: list[Any] = []

        async def reader() -> None:
            while not is_over():
                n = next(ids) % KEYS
                try:
                    outcomes.append((n, await self.aread(n)))
                except Exception as exc:  # noqa: BLE001 - what is being counted
                    outcomes.append((n, exc))

        async def crowd() -> None:
            await asyncio.gather(*(reader() for _ in range(CALLERS)))

        self.runner.run(crowd())
        return outcomes

    def close(self) -> None:
        self.runner.run(self.cache.aio.close())
        self.runner.close()


Faults = dict[str, tuple[Callable[[Any, FaultProxy], None], Callable[[Any, FaultProxy], None]]]
FAULTS: Faults = {
    "killed": (lambda server, _: server.kill(), lambda server, _: server.restart()),
    "stopped": (
        lambda server, _: server.stop_process(),
        lambda server, _: server.resume_process(),
    ),
    "refusing": (lambda _, proxy: proxy.reset(), lambda _, proxy: proxy.heal()),
    "slow by 5 s": (lambda _, proxy: proxy.delay(5), lambda _, proxy: proxy.heal()),
}


CASES = [(RedisServer, fault) for fault in FAULTS] + [
    (MemcachedServer, "killed"),
    (MemcachedServer, "stopped"),
]


@pytest.mark.parametrize("crowd_of", [SyncCrowd, AsyncCrowd])
@pytest.mark.parametrize(("server_of", "fault"), CASES)
def test_lost_under_load(server_of: Any, crowd_of: Any, fault: str) -> None:
    """0 errors, right values, at most 25 loads at once; and hits again when it is back."""
    harm, heal = FAULTS[fault]
    loads = Loads()
    with server_of() as server, FaultProxy(server.address, server.port) as proxy:
        scheme = server.url.partition(":")[0]
        cache = Cache(f"{scheme}://{proxy.host}:{proxy.port}")
        crowd = crowd_of(cache, loads)
        read_twice(crowd)
        loads.total = loads.most = 0

        harm(server, proxy)
        until = time.monotonic() + OUTAGE
        check(crowd.work(lambda: time.monotonic() > until), loads)
        assert loads.total > 0

        heal(server, proxy)
        until = time.monotonic() + BACK_WITHIN
        while True:
            before, began = loads.total, time.monotonic()
            check(read_twice(crowd), loads)
            if loads.total - before < KEYS // 10:  # hits are back: a busy machine may lose a few
                break
            assert began < until, f"{cache.stats()}"
        crowd.close()


def read_twice(crowd: Any) -> list[Any]:
    """Read every key twice or more."""
    calls = count()
    outcomes: list[Any] = crowd.work(lambda: next(calls) > 2 * KEYS)
    return outcomes


def check(outcomes: list[Any], loads: Loads) -> None:
    assert outcomes
    assert [found for n, found in outcomes if found != n * n] == []
    assert loads.most <= 25
