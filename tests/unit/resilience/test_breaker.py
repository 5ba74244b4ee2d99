"""The breaker: refuses while an endpoint fails, and finds out when it is well again."""

import asyncio
import os
import threading
from contextlib import nullcontext

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.resilience.callers import Caller, Crowd, TaskCaller

from datakit import Bulkhead, CircuitBreaker, RetryPolicy, deadline, events
from datakit.errors import (
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    OverloadError,
)
from datakit.resilience.breaker import State
from datakit.resilience.window import BUCKETS
from datakit.testing import FakeClock

MINIMUM, RATE, WINDOW, OPEN, MAX_OPEN, PROBES = 4, 0.5, 10.0, 5.0, 12.0, 2


class Down(Exception):
    pass


class BreakerModel(RuleBasedStateMachine):
    """The breaker beside its description, called by threads and tasks that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(monotonic=1000.0)
        self.breaker = CircuitBreaker(
            failure_rate=RATE, minimum_calls=MINIMUM, window=WINDOW, open_time=OPEN,
            max_open_time=MAX_OPEN, probes=PROBES, slow_call=20.0, clock=self.clock,
        )  # fmt: skip
        self.crowd = Crowd(self.breaker, self.clock)
        self.now = 1000.0
        self.state = State.CLOSED
        self.calls: list[tuple[int, bool]] = []
        self.open_time = 0.0
        self.changes_at = 0.0
        self.places = self.successes = self.generation = 0
        self.inside: dict[Caller, tuple[int, float]] = {}
        self.seen: list[events.Event] = []
        self.unsubscribe = events.subscribe(self.seen.append)
        self.told: list[events.Event] = []

    def teardown(self) -> None:
        self.unsubscribe()
        self.crowd.disperse()

    @rule(kind=st.sampled_from(["thread", "task"]))
    def start(self, kind: str) -> None:
        due = self.now >= self.changes_at
        if self.state is State.OPEN and due:
            self.state, self.successes = State.HALF_OPEN, 0
            self.grant()
        elif self.state is State.HALF_OPEN and due and self.places == 0:
            self.grant()
        admitted = self.state is State.CLOSED or (self.state is State.HALF_OPEN and self.places > 0)
        if self.state is State.HALF_OPEN and admitted:
            self.places -= 1
        caller = self.crowd.start(kind)
        self.crowd.until(
            lambda: caller.begun == admitted and caller.ended == (not admitted),
            lambda: f"admitted should be {admitted}: {caller.outcome!r}",
        )
        if admitted:
            self.inside[caller] = (self.generation, self.now)
        else:
            assert isinstance(caller.outcome, CircuitOpenError)
            assert caller.outcome.retry_after == pytest.approx(self.changes_at - self.now)

    def grant(self) -> None:
        self.generation += 1
        self.places = PROBES - self.successes
        self.changes_at = self.now + self.open_time

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), outcome=st.sampled_from(["value", "down", "refusal", "interrupted"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        caller = data.draw(st.sampled_from(list(self.inside)))
        generation, started = self.inside.pop(caller)
        interrupted = outcome == "interrupted"
        if interrupted and isinstance(caller, TaskCaller):
            caller.cancel()
        else:
            ends = {"down": Down(), "refusal": OverloadError(), "interrupted": SystemExit()}
            caller.end(ends.get(outcome))
        self.crowd.until_ended(caller)
        if generation != self.generation:
            return
        if outcome in ("refusal", "interrupted"):
            self.places += self.state is State.HALF_OPEN
        else:
            self.count(failed=outcome == "down" or self.now - started >= 20.0)

    def count(self, *, failed: bool) -> None:
        if self.state is State.HALF_OPEN:
            self.successes += not failed
            if failed:
                self.open(1.0)
            elif self.successes == PROBES:
                self.state, self.open_time, self.calls = State.CLOSED, 0.0, []
                self.generation += 1
                self.told.append(events.BreakerClosed(""))
            return
        bucket = int(self.now / (WINDOW / BUCKETS))
        self.calls = [call for call in self.calls if call[0] > bucket - BUCKETS]
        self.calls.append((bucket, failed))
        failures = sum(failed for _, failed in self.calls)
        enough = len(self.calls) >= MINIMUM and failures >= RATE * len(self.calls)
        if failed and enough:
            self.open(failures / len(self.calls))

    def open(self, rate: float) -> None:
        self.state = State.OPEN
        self.generation += 1
        self.open_time = min(2 * self.open_time, MAX_OPEN) or OPEN
        self.changes_at = self.now + self.open_time
        self.told.append(events.BreakerOpened("", round(rate, 4), self.open_time))

    @rule(kind=st.sampled_from(["thread", "task"]), times=st.integers(1, MINIMUM))
    def fail_at_once(self, kind: str, times: int) -> None:
        for _ in range(times):
            self.start(kind)
            caller = self.crowd.callers[-1]
            if caller in self.inside:
                generation, _ = self.inside.pop(caller)
                caller.end(Down())
                self.crowd.until_ended(caller)
                if generation == self.generation:
                    self.count(failed=True)

    @precondition(lambda self: self.state is not State.CLOSED)
    @rule()
    def advance_to_the_next_change(self) -> None:
        self.clock.advance(max(0.0, self.changes_at - self.now))
        self.now = self.clock.monotonic()

    @rule(seconds=st.sampled_from([0.3, 1.0, 4.7, 5.0, 13.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.now = self.clock.monotonic()

    @rule()
    def fork(self) -> None:
        self.breaker.start_anew()
        if self.state is State.HALF_OPEN:
            self.grant()

    @invariant()
    def agree(self) -> None:
        due = self.state is State.OPEN and self.now >= self.changes_at
        assert self.breaker.state is (State.HALF_OPEN if due else self.state)
        assert self.seen == self.told


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def tripped(clock: FakeClock, **options: object) -> CircuitBreaker:
    breaker = CircuitBreaker(minimum_calls=2, clock=clock, name="shop", **options)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(Down):
            breaker.call(fail)
    return breaker


def fail() -> None:
    raise Down


def test_an_open_breaker_refuses_and_says_for_how_long() -> None:
    clock = FakeClock()
    breaker = tripped(clock)
    clock.advance(2.0)
    with pytest.raises(CircuitOpenError, match="shop is open") as caught:
        breaker.call(pytest.fail)
    assert caught.value.retry_after == pytest.approx(3.0)


def test_the_open_time_doubles_to_its_cap_and_begins_anew_once_closed() -> None:
    clock = FakeClock()
    breaker = tripped(clock, probes=1)
    opened = []
    for _ in range(4):
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(pytest.fail)
        opened.append(caught.value.retry_after)
        clock.advance(caught.value.retry_after)
        with pytest.raises(Down):
            breaker.call(fail)
    assert opened == pytest.approx([5.0, 10.0, 20.0, 30.0])
    clock.advance(30.0)
    breaker.call(int)
    for _ in range(2):
        with pytest.raises(Down):
            breaker.call(fail)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(pytest.fail)
    assert caught.value.retry_after == pytest.approx(5.0)


def test_it_opens_at_the_rate_and_not_only_above_it() -> None:
    breaker = CircuitBreaker(minimum_calls=4, failure_rate=0.5)
    states = []
    for fails in (False, False, True, True):
        with pytest.raises(Down) if fails else nullcontext():
            breaker.call(fail if fails else lambda: None)
        states.append(breaker.state)
    assert states == [State.CLOSED, State.CLOSED, State.CLOSED, State.OPEN]


def test_a_success_of_a_call_from_before_it_opened_is_not_counted_after_it_closed() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(minimum_calls=2, probes=1, clock=clock)

    def outlives_an_outage() -> None:
        for _ in range(2):
            with pytest.raises(Down):
                breaker.call(fail)
        clock.advance(5.0)
        breaker.call(int)
        breaker.call(int)

    breaker.call(outlives_an_outage)
    assert breaker.state is State.CLOSED
    assert (breaker._window.calls, breaker._window.failures) == (1, 0)


def test_a_policy_around_it_fails_fast() -> None:
    clock = FakeClock()
    with pytest.raises(CircuitOpenError):
        RetryPolicy(clock=clock).call(tripped(clock).call, pytest.fail)
    assert clock.sleeps == ()


def test_probes_that_never_end_are_replaced_after_another_open_time() -> None:
    clock, release = FakeClock(), threading.Event()
    breaker = tripped(clock, probes=1)
    clock.advance(5.0)
    stuck = threading.Thread(target=breaker.call, args=(release.wait,))
    stuck.start()
    while breaker.state is not State.HALF_OPEN or breaker._places:
        pass
    with pytest.raises(CircuitOpenError):
        breaker.call(pytest.fail)
    clock.advance(5.0)
    assert breaker.call(lambda: 7) == 7
    assert breaker.state.value == "closed"
    release.set()
    stuck.join()
    assert breaker.state.value == "closed"


def test_a_slow_success_counts_as_a_failure_when_asked() -> None:
    clock = FakeClock()
    slow, fast = (
        CircuitBreaker(minimum_calls=3, slow_call=limit, clock=clock) for limit in (1.0, None)
    )
    for breaker in (slow, fast):
        for _ in range(3):
            breaker.call(clock.advance, 1.0)
    assert (slow.state, fast.state) == (State.OPEN, State.CLOSED)


def test_a_callers_deadline_says_nothing_of_the_endpoint() -> None:
    breaker, bulkhead = CircuitBreaker(minimum_calls=2), Bulkhead(1)
    for _ in range(10):
        with deadline(0), pytest.raises(DeadlineExceededError):
            breaker.call(bulkhead.call, pytest.fail)
    assert breaker.state is State.CLOSED


def test_it_closes_with_little_traffic_too() -> None:
    clock = FakeClock()
    breaker = tripped(clock, probes=3)
    for _ in range(3):
        clock.advance(6.0)
        assert breaker.state is State.HALF_OPEN
        breaker.call(int)
    assert breaker.state.value == "closed"


def test_a_cancelled_call_from_before_grants_no_probe() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(minimum_calls=2, probes=1, clock=clock)

    def outlives_the_opening() -> None:
        for _ in range(2):
            with pytest.raises(Down):
                breaker.call(fail)
        clock.advance(5.0)
        breaker._admit()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaker.call(outlives_the_opening)
    assert breaker._places == 0


def test_a_counts_that_raises_keeps_no_probes_place() -> None:
    clock, answers = FakeClock(), [True, True]

    def broken(_: Exception) -> bool:
        return answers.pop()  # and then IndexError

    breaker = tripped(clock, probes=1, counts=broken)
    clock.advance(5.0)
    with pytest.raises(IndexError):
        breaker.call(fail)
    assert breaker.call(lambda: 7) == 7


def test_what_counts_is_the_users_to_say() -> None:
    breaker = CircuitBreaker(minimum_calls=1, counts=lambda exc: not isinstance(exc, Down))
    with pytest.raises(Down):
        breaker.call(fail)
    assert breaker.state.value == "closed"
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    assert breaker.state.value == "open"


async def test_threads_and_tasks_share_one_state() -> None:
    breaker = tripped(FakeClock())

    async def nothing() -> None:
        raise AssertionError

    with pytest.raises(CircuitOpenError):
        await breaker.acall(nothing)


@pytest.mark.parametrize("steps", range(4))
async def test_a_probe_cancelled_at_any_await_gives_its_place_back(steps: int) -> None:
    clock = FakeClock()
    breaker = tripped(clock, probes=1)
    clock.advance(5.0)

    async def work() -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    probe = asyncio.create_task(breaker.acall(work))
    for _ in range(steps):
        await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert breaker.call(lambda: 7) == 7


def test_many_threads_lose_no_count() -> None:
    breaker = CircuitBreaker(minimum_calls=10**6, window=3600.0)

    def work() -> None:
        for i in range(2_000):
            if i % 2:
                breaker.call(int)
            else:
                with pytest.raises(Down):
                    breaker.call(fail)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (breaker._window.calls, breaker._window.failures) == (16_000, 8_000)


def test_a_forked_child_goes_on_with_the_state_and_probes_of_its_own() -> None:
    clock = FakeClock()
    breaker = tripped(clock, probes=1)
    clock.advance(5.0)

    def in_child() -> int:
        child = os.fork()
        if child == 0:
            os._exit(breaker.call(lambda: 42) if breaker.state is State.HALF_OPEN else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert breaker.call(in_child) == 42


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_rate", 2), ("failure_rate", 0), ("failure_rate", float("nan")),
        ("failure_rate", "half"), ("minimum_calls", 0), ("minimum_calls", 1.5), ("window", 0),
        ("window", -1.0), ("open_time", 0), ("max_open_time", 1.0), ("probes", 0),
        ("slow_call", 0), ("slow_call", -1), ("counts", Down()),
    ],
)  # fmt: skip
def test_an_argument_of_no_use_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"CircuitBreaker\({name}="):
        CircuitBreaker(**{name: value})  # type: ignore[arg-type]
