"""A server that is lost under load: no error, no wrong value, no long wait, no flood of loads; and
hits again within 5 s of its return."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from typing import Any

import pytest

from datakit.cache import Cache
from datakit.testing import FakeClock, FaultProxy, MemcachedServer, RedisServer

CALLERS = 60
KEYS = 400
OUTAGE = 1.5
"""Seconds under load without the cache."""

BACK_WITHIN = 30.0
"""Seconds after the server's return: far more than is promised, for a machine so busy that answers
take longer than the cache waits. An idle one takes 1."""

LONGEST_CALL = 4.5
"""Seconds, less than the slow server takes: 250 ms to read, as long to take the lease or to store,
the load, and the rest for the same machine. An idle one takes 0.7."""

Outcome = tuple[int, Any, float]
"""What a call asked for, its result or error, and the seconds that it took."""


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

    def work(self, is_over: Callable[[], bool]) -> list[Outcome]:
        """Return what became of each call."""
        ids = count()
        outcomes: list[Outcome] = []

        def reader(_: int) -> None:
            while not is_over():
                n, began = next(ids) % KEYS, time.monotonic()
                found: Any
                try:
                    found = self.read(n)
                except Exception as exc:  # noqa: BLE001 - what is being counted
                    found = exc
                outcomes.append((n, found, time.monotonic() - began))

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

    def work(self, is_over: Callable[[], bool]) -> list[Outcome]:
        """Return what became of each call."""
        ids = count()
        outcomes: list[Outcome] = []

        async def reader() -> None:
            while not is_over():
                n, began = next(ids) % KEYS, time.monotonic()
                found: Any
                try:
                    found = await self.aread(n)
                except Exception as exc:  # noqa: BLE001 - what is being counted
                    found = exc
                outcomes.append((n, found, time.monotonic() - began))

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


@pytest.mark.parametrize("crowd_of", [SyncCrowd, AsyncCrowd])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("server_of", [RedisServer, MemcachedServer])
def test_lost_under_load(server_of: Any, crowd_of: Any, fault: str) -> None:
    """And one that was killed comes back empty."""
    harm, heal = FAULTS[fault]
    loads = Loads()
    with ExitStack() as stack:
        server = stack.enter_context(server_of())
        proxy = stack.enter_context(FaultProxy(server.address, server.port))
        scheme = server.url.partition(":")[0]
        cache = Cache(f"{scheme}://{proxy.host}:{proxy.port}")
        crowd = stack.enter_context(closing(crowd_of(cache, loads)))
        read_twice(crowd)
        loads.total = loads.most = 0

        harm(server, proxy)
        until = time.monotonic() + OUTAGE
        check(crowd.work(lambda: time.monotonic() > until), loads)
        assert loads.total > 0

        heal(server, proxy)
        back_at = time.monotonic()
        while True:
            before, began = loads.total, time.monotonic()
            assert began - back_at < BACK_WITHIN, f"{cache.stats()}"
            check(read_twice(crowd), loads)
            if loads.total - before < KEYS // 10:  # hits are back: a busy machine may lose a few
                break


def read_twice(crowd: Any) -> list[Outcome]:
    """Read every key twice or more."""
    calls = count()
    outcomes: list[Outcome] = crowd.work(lambda: next(calls) > 2 * KEYS)
    return outcomes


def check(outcomes: list[Outcome], loads: Loads) -> None:
    assert outcomes
    assert [found for n, found, _ in outcomes if found != n * n] == []
    assert max(seconds for *_, seconds in outcomes) < LONGEST_CALL
    assert loads.most <= 25


@pytest.mark.parametrize("server_of", [RedisServer, MemcachedServer])
def test_lost_for_long_it_is_asked_again_as_soon(server_of: Any, side_of: Any) -> None:
    """Ten minutes without the server does not put off its return: it is asked within 5 s."""
    clock = FakeClock()
    with server_of() as server:
        cache = Cache(server.url, clock=clock)
        side = side_of(cache)
        side.set("k", 1, 100_000)
        server.kill()
        for _ in range(2400):
            clock.advance(0.25)
            side.get("k")
        server.restart()
        clock.advance(2.5)
        for _ in range(5):
            side.get_or_load("k", lambda: 2, 60)
        assert side.get("k") == 2
