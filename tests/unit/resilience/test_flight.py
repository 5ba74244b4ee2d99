"""One run for any number of callers, and nobody harmed by another's end."""

import asyncio
import contextvars
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from datakit import events
from datakit.errors import DeadlineExceededError
from datakit.resilience import deadline
from datakit.resilience.flight import SingleFlight
from datakit.resilience.flight_async import AsyncSingleFlight
from datakit.testing._wait import until


class Work:
    """Counts its runs; each waits for `gate` and then returns or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.runs = 0
        self.started = threading.Event()
        self.gate = threading.Event()
        self.error = error

    def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        self.started.set()
        assert self.gate.wait(10)
        if self.error is not None and run == 1:
            raise self.error
        return run


def test_a_crowd_of_threads_shares_one_run() -> None:
    flights, work = SingleFlight[int](), Work()
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(flights.run, "k", work) for _ in range(20)]
        assert work.started.wait(10)
        until(lambda: all(call.running() for call in calls), "start of all")
        time.sleep(0.1)
        work.gate.set()
        assert {call.result() for call in calls} == {1}
    assert work.runs == 1


def test_the_crowd_gets_the_error() -> None:
    flights, work = SingleFlight[int](), Work(ValueError("broken"))
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(flights.run, "k", work) for _ in range(5)]
        assert work.started.wait(10)
        until(lambda: all(call.running() for call in calls), "start of all")
        time.sleep(0.1)
        work.gate.set()
        for call in calls:
            with pytest.raises(ValueError, match="broken"):
                call.result()
    assert flights.run("k", lambda: 7) == 7


def test_the_next_takes_over_when_the_first_is_interrupted() -> None:
    flights, work = SingleFlight[int](), Work(KeyboardInterrupt())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.run, "k", work)
        assert work.started.wait(10)
        second = pool.submit(flights.run, "k", work)
        time.sleep(0.1)
        work.gate.set()
        assert second.result() == 2
        with pytest.raises(KeyboardInterrupt):
            first.result()


def test_the_next_takes_over_when_the_first_runs_out_of_time() -> None:
    flights, gate, started = SingleFlight[int](), threading.Event(), threading.Event()

    def hurried() -> int:
        with deadline(0.1):
            return flights.run("k", slow)

    def slow() -> int:
        started.set()
        assert gate.wait(10)
        deadline.bound(1)
        return 2

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(contextvars.copy_context().run, hurried)
        assert started.wait(10)
        second = pool.submit(flights.run, "k", slow)
        time.sleep(0.2)
        gate.set()
        assert second.result() == 2
        with pytest.raises(DeadlineExceededError):
            first.result()


def test_a_deadline_of_the_works_own_is_an_error_like_any_other() -> None:
    flights, work = SingleFlight[int](), Work(DeadlineExceededError("its own"))
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(flights.run, "k", work) for _ in range(5)]
        assert work.started.wait(10)
        until(lambda: all(call.running() for call in calls), "start of all")
        time.sleep(0.1)
        work.gate.set()
        for call in calls:
            with pytest.raises(DeadlineExceededError):
                call.result()
    assert work.runs == 1


def test_a_waiters_deadline_ends_its_wait_alone() -> None:
    flights, work = SingleFlight[int](), Work()
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)

    def impatient() -> int:
        with deadline(0.1):
            return flights.run("k", work)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.run, "k", work)
        assert work.started.wait(10)
        with pytest.raises(DeadlineExceededError):
            pool.submit(contextvars.copy_context().run, impatient).result()
        work.gate.set()
        assert first.result() == 1
    unsubscribe()
    assert [type(event).__name__ for event in seen] == ["DeadlineExceeded"]


def test_work_that_asks_for_its_own_key_does_not_hang() -> None:
    flights = SingleFlight[int]()
    assert flights.run("k", lambda: flights.run("k", lambda: 7)) == 7


def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    flights, work = SingleFlight[int](), Work()
    thread = threading.Thread(target=flights.run, args=("k", work))
    thread.start()
    assert work.started.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(flights.run("k", lambda: 42))
    _, status = os.waitpid(child, 0)
    work.gate.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 42


class AsyncWork:
    """The same for tasks."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.runs = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error = error

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None and run == 1:
            raise self.error
        return run


async def test_a_crowd_of_tasks_shares_one_run() -> None:
    flights, work = AsyncSingleFlight[int](), AsyncWork()
    calls = [asyncio.create_task(flights.run("k", work.__call__)) for _ in range(100)]
    await asyncio.sleep(0)
    work.gate.set()
    assert set(await asyncio.gather(*calls)) == {1}
    assert work.runs == 1


async def test_a_cancelled_waiter_ends_its_own_wait_alone() -> None:
    flights, work = AsyncSingleFlight[int](), AsyncWork()
    first, second = (asyncio.create_task(flights.run("k", work.__call__)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_the_work_is_cancelled_with_its_last_waiter() -> None:
    flights, work = AsyncSingleFlight[int](), AsyncWork()
    calls = [asyncio.create_task(flights.run("k", work.__call__)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)
    assert work.cancelled == 1
    work.gate.set()
    assert await flights.run("k", work.__call__) == 2


async def test_the_first_ones_deadline_is_not_the_others() -> None:
    flights = AsyncSingleFlight[float | None]()

    async def work() -> float | None:
        await asyncio.sleep(0.05)
        deadline.bound(1)
        return deadline.remaining()

    async def hurried() -> float | None:
        with deadline(0.02):
            return await flights.run("k", work)

    first = asyncio.create_task(hurried())
    await asyncio.sleep(0)
    second = asyncio.create_task(flights.run("k", work))
    with pytest.raises(DeadlineExceededError):
        await first
    assert await second is None


async def test_async_work_that_asks_for_its_own_key_does_not_hang() -> None:
    flights = AsyncSingleFlight[int]()

    async def inner() -> int:
        return 7

    async def outer() -> int:
        return await flights.run("k", inner)

    async with asyncio.timeout(5):
        assert await flights.run("k", outer) == 7


def test_event_loops_share_nothing() -> None:
    flights = AsyncSingleFlight[int]()

    async def work() -> int:
        await asyncio.sleep(0.01)
        return 7

    def loop(_: int) -> int:
        return asyncio.run(flights.run("k", work))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(loop, range(40))) == {7}
