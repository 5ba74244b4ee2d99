"""A second call beside a slow one: for reads, bounded, and the loser is stopped."""

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit import RetryBudget, RetryPolicy, deadline, events
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import Hedge
from datakit.resilience.flight import SingleFlight
from datakit.resilience.latency import SAMPLE, Latencies


def warmed(**options: object) -> Hedge:
    """Return a hedge that has seen quick calls."""
    hedge = Hedge(minimum_calls=5, **options)  # type: ignore[arg-type]
    for _ in range(5):
        hedge.call(int)
    assert hedge.delay is not None
    return hedge


class Slow:
    """Its first call takes until it is told to end or its deadline is over; others are quick."""

    def __init__(self, *outcomes: object) -> None:
        self.calls = 0
        self.release = threading.Event()
        self.stopped = threading.Event()
        self.outcomes = list(outcomes)

    def __call__(self) -> object:
        self.calls += 1
        number = self.calls
        if number == 1:
            while not self.release.wait(0.001):
                if deadline.remaining() == 0:
                    self.stopped.set()
                    raise DeadlineExceededError
        outcome = self.outcomes[number - 1] if self.outcomes else number
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def test_the_second_call_wins_and_the_first_ones_deadline_is_over() -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    hedge, slow = warmed(name="reads"), Slow()
    assert hedge.call(slow) == 2
    assert slow.stopped.wait(5)
    unsubscribe()
    assert [type(event).__name__ for event in seen] == ["HedgeStarted"]


def test_a_loser_makes_no_more_retries() -> None:
    hedge, tries, ended = warmed(), [0], threading.Event()

    def read() -> int:
        tries[0] += 1
        if tries[0] == 2:  # the second of the two calls; its first attempt
            return 7
        try:
            RetryPolicy(attempts=10**6, base=0.002, cap=0.002, budget=RetryBudget(10**6)).call(fail)
        finally:
            ended.set()
        return 0

    def fail() -> None:
        raise ConnectionResetError

    assert hedge.call(read) == 7
    assert ended.wait(5)


def test_before_enough_is_known_and_for_quick_calls_there_is_no_second_call() -> None:
    hedge, threads = Hedge(minimum_calls=3), set[int]()

    def read() -> None:
        threads.add(threading.get_ident())

    for _ in range(3):
        hedge.call(read)
    assert threads == {threading.get_ident()}
    assert hedge.delay is not None


def test_an_error_before_the_second_call_goes_up_at_once() -> None:
    hedge, calls = warmed(), [0]

    def broken() -> None:
        calls[0] += 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        hedge.call(broken)
    assert calls == [1]


def test_an_error_beside_a_call_that_goes_on_waits_for_that_one() -> None:
    hedge, slow = warmed(), Slow(7, ValueError("second"))
    threading.Timer(0.05, slow.release.set).start()
    assert hedge.call(slow) == 7


def test_when_both_fail_the_first_error_goes_up() -> None:
    hedge, slow = warmed(), Slow(KeyError("first"), ValueError("second"))
    threading.Timer(0.05, slow.release.set).start()
    with pytest.raises(KeyError, match="first"):
        hedge.call(slow)


def test_the_deadline_ends_the_wait_for_both() -> None:
    hedge, release = warmed(), threading.Event()
    began = time.monotonic()
    with deadline(0.05), pytest.raises(DeadlineExceededError):
        hedge.call(release.wait, 30.0)
    release.set()
    assert time.monotonic() - began < 20


def test_second_calls_take_tokens_so_that_a_slow_server_is_not_asked_twice_by_all() -> None:
    hedge = warmed(budget=RetryBudget(30, transient=14, success=0))
    calls = [0]

    def slow() -> None:
        calls[0] += 1
        time.sleep(0.01)

    for _ in range(10):
        hedge.call(slow)
    assert calls[0] <= 12


def test_with_all_threads_taken_a_call_is_made_plainly() -> None:
    hedge, here = warmed(max_threads=2), threading.get_ident()
    release, seen = threading.Event(), list[int]()
    waiting = [threading.Thread(target=hedge.call, args=(release.wait,)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while hedge._threads < 2:
        time.sleep(0.001)
    hedge.call(lambda: seen.append(threading.get_ident()))
    release.set()
    for thread in waiting:
        thread.join()
    assert seen == [here]
    while hedge._threads:
        time.sleep(0.001)


def test_the_context_of_the_caller_reaches_the_calls() -> None:
    with deadline(60.0):
        left = warmed().call(deadline.remaining)
    assert left is not None
    assert 59 < left <= 60


def test_without_a_deadline_there_is_none_inside_either() -> None:
    hedge, flights = warmed(), SingleFlight[int]()
    assert hedge.call(deadline.remaining) is None
    release = threading.Event()
    other = threading.Thread(target=flights.run, args=("k", lambda: int(release.wait(10))))
    other.start()
    threading.Timer(0.02, release.set).start()
    assert hedge.call(flights.run, "k", lambda: 2) in (1, 2)
    other.join()


def test_what_the_winner_started_goes_on() -> None:
    """Whichever of the calls that was: a busy machine makes two."""
    left: dict[int, float | None] = {}
    threads: dict[int, threading.Thread] = {}
    numbers = count()

    def read() -> int:
        context, number = contextvars.copy_context(), next(numbers)

        def later() -> None:
            time.sleep(0.05)
            left[number] = context.run(deadline.remaining)

        threads[number] = threading.Thread(target=later)
        threads[number].start()
        return number

    won = warmed().call(read)
    threads[won].join()
    assert left[won] is None


def test_failures_teach_it_nothing() -> None:
    hedge = warmed()
    known = hedge._latencies._noted
    for _ in range(50):
        with pytest.raises(ZeroDivisionError):
            hedge.call(lambda: 1 / 0)
    assert hedge._latencies._noted == known


def test_without_a_thread_left_a_call_is_made_plainly_and_no_place_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hedge = warmed(max_threads=2)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(5):
        assert hedge.call(int) == 0
    assert hedge._threads == 0


async def test_a_task_that_lost_is_cancelled() -> None:
    hedge, calls, cancelled = warmed(), [0], asyncio.Event()

    async def read() -> int:
        calls[0] += 1
        if calls[0] == 2:
            return 7
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 0

    assert await hedge.acall(read) == 7
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_tasks_get_the_first_error_when_all_fail_and_wait_for_the_other() -> None:
    calls = [0]

    def make(first: object, second: object) -> Callable[[], object]:
        calls[0] = 0

        async def read() -> object:
            calls[0] += 1
            number = calls[0]
            await asyncio.sleep(0.03 if number == 1 else 0.0)
            outcome = (first, second)[number - 1]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return read

    assert await warmed().acall(make(7, ValueError("second"))) == 7  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="first"):
        await warmed().acall(make(KeyError("first"), ValueError("second")))  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", range(8))
async def test_a_caller_cancelled_at_any_await_leaves_no_task_behind(steps: int) -> None:
    hedge = warmed()

    async def read() -> None:
        await asyncio.sleep(60)

    caller = asyncio.create_task(hedge.acall(read))
    for step in range(steps):
        await asyncio.sleep(0.002 if step == 2 else 0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_forked_child_has_all_threads() -> None:
    hedge, release = warmed(max_threads=2), threading.Event()
    thread = threading.Thread(target=hedge.call, args=(release.wait,))
    thread.start()
    while not hedge._threads:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        os._exit(hedge.call(lambda: 42))
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 42


@given(st.lists(st.floats(0, 100), min_size=1, max_size=450), st.floats(0.01, 1.0))
def test_the_quantile_is_one_of_the_latest_durations(
    durations: list[float], quantile: float
) -> None:
    latencies = Latencies(quantile, 1)
    for noted, seconds in enumerate(durations, 1):
        latencies.note(seconds)
        if noted == 1 or noted % 20 == 0:
            latest = sorted(durations[max(0, noted - SAMPLE) : noted])
            assert latencies.value in latest
            below = sum(seconds <= latencies.value for seconds in latest)
            assert below >= min(len(latest), quantile * len(latest))


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantile", 1.5), ("minimum_calls", 0), ("minimum_calls", 201), ("budget", 7),
     ("max_threads", 1)],
)  # fmt: skip
def test_an_argument_of_no_use_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"Hedge\({name}="):
        Hedge(**{name: value})  # type: ignore[arg-type]
