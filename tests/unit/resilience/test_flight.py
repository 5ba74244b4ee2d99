"""One run for any number of callers, and nobody harmed by another's end."""

import asyncio
import contextvars
import gc
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any

import pytest

from datakit import events
from datakit.errors import DeadlineExceededError
from datakit.resilience import deadline, flight
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


def interrupted_at(nth: int, work: Callable[[], object]) -> bool:
    """Do `work` and raise KeyboardInterrupt at the `nth` line that `SingleFlight` runs of its own;
    return whether there was one."""
    lines = 0

    def interrupt(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != flight.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == nth:
                raise KeyboardInterrupt
        return interrupt

    with suppress(KeyboardInterrupt):
        sys.settrace(interrupt)
        try:
            work()
        finally:
            sys.settrace(None)
    return lines >= nth


def test_no_interrupt_of_the_first_leaves_others_waiting() -> None:
    """Nor is its value that of later callers."""
    nth = 0
    for nth in count(1):
        flights = SingleFlight[int]()
        with ThreadPoolExecutor(2) as pool:

            def first(nth: int = nth, flights: SingleFlight[int] = flights) -> bool:
                return interrupted_at(nth, lambda: flights.run("k", lambda: 1))

            was_interrupted = pool.submit(first).result(10)
            assert pool.submit(flights.run, "k", lambda: 2, wait=20).result(30) == 2
        if not was_interrupted:
            break
    assert nth > 10


def test_an_error_does_not_grow_with_those_who_wait_for_it() -> None:
    flights = SingleFlight[int]()
    started, gate = threading.Event(), threading.Event()

    def fail() -> int:
        started.set()
        assert gate.wait(10)
        raise ValueError("nothing there")

    def call() -> int:
        try:
            flights.run("k", fail)
        except ValueError as exc:
            return len(traceback.extract_tb(exc.__traceback__))
        raise AssertionError

    with ThreadPoolExecutor(30) as pool:
        crowd = [pool.submit(call) for _ in range(30)]
        assert started.wait(10)
        until(lambda: all(one.running() for one in crowd), "start of all")
        gate.set()
        assert max(one.result() for one in crowd) < 10


async def test_a_run_that_has_ended_is_joined_by_nobody() -> None:
    """Also before its end was told to the loop."""
    flights, runs = AsyncSingleFlight[int](), count(1)
    gate = asyncio.get_running_loop().create_future()

    async def work() -> int:
        run = next(runs)
        if run == 1:
            await gate
        return run

    async def late() -> int:
        await gate
        return await flights.run("k", work)

    first = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(late())
    await asyncio.sleep(0.01)
    gate.set_result(None)
    assert (await first, await second) == (1, 2)


def test_a_closed_loop_is_not_kept_for_the_runs_it_left() -> None:
    flights = AsyncSingleFlight[None]()

    async def leave() -> None:
        asyncio.create_task(flights.run("k", lambda: asyncio.sleep(60)))  # noqa: RUF006
        await asyncio.sleep(0)

    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
        loops.append(weakref.ref(loop))
        loop.run_until_complete(leave())
        loop.close()
        del loop
    gc.collect()
    assert sum(ref() is not None for ref in loops) <= 1


class Key:
    """Has another run forgotten while it is looked for, as the garbage collector may."""

    def __init__(self, flights: SingleFlight[int]) -> None:
        self.flights = flights

    def __hash__(self) -> int:
        self.flights.forget("another")
        return 1


def test_a_run_may_be_forgotten_while_another_is_looked_for() -> None:
    flights = SingleFlight[int]()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(flights.run, Key(flights), lambda: 1).result(10) == 1
