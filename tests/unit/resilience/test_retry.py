"""The retry loop: what is tried again, how often, until when, and what the caller gets."""

import asyncio
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from datakit import events
from datakit.errors import (
    CircuitOpenError,
    CommitUnknownError,
    ConfigError,
    DeadlineExceededError,
    OverloadError,
    ResolveTimeoutError,
)
from datakit.resilience import RetryBudget, RetryPolicy, Rule, Verdict, deadline
from datakit.resilience.backoff import full_jitter
from datakit.resilience.classification import classify_by_type
from datakit.resilience.rule import UNTIL_DEADLINE
from datakit.resilience.verdict import FINAL
from datakit.testing import FakeClock


class Broken(Exception):
    pass


def failing(times: int, clock: FakeClock, takes: float = 0.0) -> Callable[[], int]:
    """Return a function that raises `times` times and then returns how often it ran."""
    runs = 0

    def fn() -> int:
        nonlocal runs
        runs += 1
        clock.advance(takes)
        if runs <= times:
            raise Broken(f"run {runs}")
        return runs

    return fn


def finished(coroutine: Any) -> Any:
    """Return what a coroutine returns that waits for nothing but a fake clock."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value


def run(
    mode: str, policy: RetryPolicy, verdict: Verdict, fn: Callable[[], int], clock: FakeClock
) -> int:
    """Run `fn` through the sync or the async shell or loop."""
    policy = replace(policy, classify=lambda _: verdict, clock=clock)

    async def coroutine() -> int:
        return fn()

    async def loop() -> int:
        result = -1
        async for attempt in policy:
            with attempt:
                result = fn()
        return result

    if mode == "async":
        return int(finished(policy.acall(coroutine)))
    if mode == "async for":
        return int(finished(loop()))
    if mode == "for":
        result = -1
        for attempt in policy:
            with attempt:
                result = fn()
        return result
    return policy.call(fn)


COUNTED: list[Verdict] = sorted(set(Verdict) - FINAL, key=lambda verdict: verdict.value)

both = pytest.mark.parametrize("mode", ["sync", "async", "for", "async for"])


@both
@pytest.mark.parametrize("verdict", COUNTED)
def test_counted_verdicts_are_tried_so_often_in_all(mode: str, verdict: Verdict) -> None:
    clock = FakeClock()
    assert run(mode, RetryPolicy(attempts=3), verdict, failing(2, clock), clock) == 3
    with pytest.raises(Broken, match="run 3"):
        run(mode, RetryPolicy(attempts=3), verdict, failing(3, clock), clock)


@both
def test_a_rule_says_how_often_one_verdict_is_tried(mode: str) -> None:
    clock = FakeClock()
    policy = RetryPolicy(attempts=3, rules={Verdict.CONFLICT: Rule(attempts=5, charged=False)})
    assert run(mode, policy, Verdict.CONFLICT, failing(4, clock), clock) == 5
    with pytest.raises(Broken, match="run 3"):
        run(mode, policy, Verdict.DISCONNECT, failing(9, clock), clock)


@both
def test_lost_links_of_a_database_are_tried_until_the_deadline(mode: str) -> None:
    clock = FakeClock()
    policy = RetryPolicy(attempts=1, deadline=10.0, rules=UNTIL_DEADLINE)
    assert run(mode, policy, Verdict.DISCONNECT, failing(8, clock, takes=0.01), clock) == 9
    began = clock.monotonic()
    with pytest.raises(Broken):
        run(mode, policy, Verdict.NOT_SENT, failing(10**9, clock, takes=0.5), clock)
    assert clock.monotonic() - began <= 10.5


@both
def test_a_fatal_error_goes_up_at_once(mode: str) -> None:
    clock = FakeClock()
    with pytest.raises(Broken, match="run 1"):
        run(mode, RetryPolicy(), Verdict.FATAL, failing(1, clock), clock)
    assert clock.sleeps == ()


@both
def test_the_enclosing_deadline_ends_the_loop(mode: str) -> None:
    clock = FakeClock()
    began = clock.monotonic()
    with deadline(2.0, clock=clock), pytest.raises(Broken):
        policy = RetryPolicy(rules=UNTIL_DEADLINE)
        run(mode, policy, Verdict.NOT_SENT, failing(10**9, clock, takes=0.3), clock)
    assert clock.monotonic() - began <= 2.3


@both
def test_the_error_tells_what_was_tried(mode: str) -> None:
    clock = FakeClock()
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    with pytest.raises(Broken) as caught:
        run(mode, RetryPolicy(attempts=2), Verdict.CONFLICT, failing(9, clock), clock)
    unsubscribe()
    assert "gave up after 2 attempt(s)" in caught.value.__notes__[0]
    assert "conflict" in caught.value.__notes__[0]
    assert [type(event).__name__ for event in seen] == ["RetryScheduled", "RetryGaveUp"]


@both
def test_the_time_running_out_does_not_hide_what_failed(mode: str) -> None:
    clock = FakeClock()
    outcomes: list[Exception] = [Broken("the cause"), DeadlineExceededError("no time")]

    def fn() -> int:
        clock.advance(20.0)
        raise outcomes.pop(0)

    with pytest.raises(Broken, match="the cause") as caught:
        run(mode, RetryPolicy(deadline=30.0), Verdict.NOT_SENT, fn, clock)
    assert "the deadline is over" in caught.value.__notes__[0]


@both
def test_a_call_after_the_enclosing_deadline_is_not_started(mode: str) -> None:
    clock = FakeClock()
    with deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError, match="not started"):
            run(mode, RetryPolicy(), Verdict.NOT_SENT, pytest.fail, clock)


@both
def test_everything_inside_honours_the_policys_deadline(mode: str) -> None:
    clock = FakeClock()
    left: list[float | None] = []

    def fn() -> int:
        left.append(deadline.remaining())
        clock.advance(1.0)
        if len(left) == 1:
            raise Broken
        return 7

    assert run(mode, RetryPolicy(deadline=5.0, base=0), Verdict.NOT_SENT, fn, clock) == 7
    assert left == [5.0, 4.0]
    assert deadline.remaining() is None


@pytest.mark.parametrize("inner", ["sync", "for"])
@pytest.mark.parametrize("outer", ["sync", "async", "for", "async for"])
def test_what_an_inner_loop_gave_up_on_no_outer_loop_starts_again(inner: str, outer: str) -> None:
    clock = FakeClock()
    runs = failing(10**9, clock)

    def wrapped() -> int:
        try:
            return run(inner, RetryPolicy(), Verdict.CONFLICT, runs, clock)
        except Broken as exc:
            raise RuntimeError("wrapped") from exc

    with pytest.raises(RuntimeError) as caught:
        run(outer, RetryPolicy(), Verdict.CONFLICT, wrapped, clock)
    assert str(caught.value.__cause__) == "run 3"


@both
def test_an_exception_object_raised_in_two_operations_is_tried_again_in_both(mode: str) -> None:
    clock, error, runs = FakeClock(), Broken("always the same"), [0]

    def fn() -> int:
        runs[0] += 1
        clock.advance(0.1)
        raise error

    for operation in (1, 2):
        with pytest.raises(Broken):
            run(mode, RetryPolicy(attempts=3), Verdict.CONFLICT, fn, clock)
        assert runs[0] == 3 * operation


@both
def test_an_exception_that_is_its_own_cause_does_not_hang(mode: str) -> None:
    clock, runs = FakeClock(), [0]

    def fn() -> int:
        runs[0] += 1
        error = Broken()
        raise error from error

    with pytest.raises(Broken):
        run(mode, RetryPolicy(), Verdict.CONFLICT, fn, clock)
    assert runs == [3]


def test_what_one_thread_gave_up_on_another_may_try_again() -> None:
    """Both get the same exception object, as the waiters of one flight do."""
    shared, gave_up, runs = Broken(), threading.Event(), [0]

    def hasty() -> None:
        with pytest.raises(Broken):
            RetryPolicy(attempts=1).call(fail)
        gave_up.set()

    def fail() -> int:
        raise shared

    def patient() -> int:
        runs[0] += 1
        if runs[0] == 1:
            thread = threading.Thread(target=hasty)
            thread.start()
            assert gave_up.wait(10)
            thread.join()
            raise shared
        return 7

    assert RetryPolicy(base=0).call(patient) == 7


async def test_what_one_task_gave_up_on_another_may_try_again() -> None:
    shared, runs = Broken(), [0]

    async def fail() -> None:
        raise shared

    async def hasty() -> None:
        with pytest.raises(Broken):
            await RetryPolicy(attempts=1).acall(fail)

    async def patient() -> int:
        runs[0] += 1
        if runs[0] == 1:
            await asyncio.create_task(hasty())
            raise shared
        return 7

    with deadline(60.0):  # which both tasks share
        assert await RetryPolicy(base=0).acall(patient) == 7


@both
def test_an_error_raised_while_handling_what_was_given_up_on_is_final_too(mode: str) -> None:
    clock = FakeClock()
    runs = failing(10**9, clock)

    def wrapped() -> int:
        try:
            return RetryPolicy(classify=lambda _: Verdict.CONFLICT, clock=clock).call(runs)
        except Broken:
            raise RuntimeError("wrapped")  # noqa: B904 - that is the point

    with pytest.raises(RuntimeError):
        run(mode, RetryPolicy(), Verdict.CONFLICT, wrapped, clock)


def test_the_mark_of_having_given_up_is_in_no_pickle() -> None:
    with pytest.raises(ConnectionResetError) as caught:
        RetryPolicy(clock=FakeClock()).call(failing_with(ConnectionResetError("lost")))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.__dict__["_datakit_given_up"] is None
    assert RetryPolicy(base=0, attempts=2).call([copy].pop) is copy


def failing_with(error: Exception) -> Callable[[], int]:
    def fn() -> int:
        raise error

    return fn


@both
def test_an_attempt_that_outlived_its_own_deadline_is_tried_again(mode: str) -> None:
    clock, runs = FakeClock(), [0]

    def fn() -> int:
        runs[0] += 1
        if runs[0] < 3:
            with deadline(1.0, clock=clock):
                clock.advance(1.0)
                deadline.bound(5.0)
        return runs[0]

    policy = RetryPolicy(deadline=30.0, clock=clock)
    if mode == "sync":
        assert policy.call(fn) == 3
    assert RetryPolicy(clock=clock).verdict(DeadlineExceededError()) is Verdict.FATAL


@both
def test_no_attempt_starts_when_the_wait_took_too_long(mode: str) -> None:
    class SlowToWake(FakeClock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds + 60.0)

    clock, runs = SlowToWake(), [0]

    def fn() -> int:
        runs[0] += 1
        raise Broken

    with pytest.raises(Broken) as caught:
        run(mode, RetryPolicy(deadline=30.0), Verdict.CONFLICT, fn, clock)
    assert runs == [1]
    assert "the deadline is over" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"retry": tenacity.retry_always}, 3),
        ({"retry": tenacity.retry_always, "attempts": 1}, 1),
        ({"stop": tenacity.stop_after_attempt(5)}, 5),
        ({"stop": tenacity.stop_never, "rules": {Verdict.DISCONNECT: Rule(charged=False)}}, 40),
        ({"wait": tenacity.wait_fixed(1)}, 3),
        ({"stop": tenacity.stop_after_delay(0.25)}, 1),
    ],
)
def test_each_of_tenacitys_strategies_takes_the_place_of_one_of_ours(
    options: dict[str, Any], runs: int
) -> None:
    clock = FakeClock()
    policy = RetryPolicy(**{"base": 0.0, "clock": clock, "deadline": 11.9, **options})
    made = [0]

    def fn() -> None:
        made[0] += 1
        clock.advance(0.3)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        policy.call(fn)
    assert made == [runs]


def test_a_retry_after_is_not_waited_for_again_after_a_result_that_is_refused() -> None:
    clock = FakeClock()

    class Busy(Exception):
        retry_after = 4.0

    answers: list[object] = [Busy(), None, 7]

    def fn() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    refuse = tenacity.retry_if_result(lambda value: value is None)
    retry = tenacity.retry_any(tenacity.retry_if_exception_type(Busy), refuse)
    assert RetryPolicy(base=0, clock=clock, retry=retry).call(fn) == 7
    assert clock.sleeps == (4.0, 0.0)


def test_an_exception_that_takes_no_notes_goes_up_as_it_is() -> None:
    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    def fn() -> int:
        raise Frozen(7)

    with pytest.raises(Frozen):
        RetryPolicy(clock=FakeClock()).call(fn)


def test_a_classification_that_returns_nothing_is_told() -> None:
    policy = RetryPolicy(classify=lambda _: None, clock=FakeClock())  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="classify returned None"):
        policy.call(failing(1, FakeClock()))


@both
def test_a_servers_retry_after_is_waited_for(mode: str) -> None:
    clock = FakeClock()

    class Busy(Exception):
        retry_after = 4.0

    outcomes: list[object] = [Busy(), 7]

    def fn() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return 7

    assert run(mode, RetryPolicy(), Verdict.OVERLOAD, fn, clock) == 7
    (slept,) = clock.sleeps
    assert 4.0 <= slept <= 4.05


@both
def test_a_retry_after_beyond_the_deadline_ends_it_at_once(mode: str) -> None:
    clock = FakeClock()

    class Busy(Exception):
        retry_after = 60

    def fn() -> int:
        raise Busy

    with pytest.raises(Busy) as caught:
        run(mode, RetryPolicy(), Verdict.OVERLOAD, fn, clock)
    assert clock.sleeps == ()
    assert "the deadline is near" in caught.value.__notes__[0]


@both
def test_interruptions_go_straight_up(mode: str) -> None:
    clock = FakeClock()

    def fn() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mode, RetryPolicy(), Verdict.CONFLICT, fn, clock)
    assert clock.sleeps == ()


def test_tenacitys_strategies_take_the_place_of_ours() -> None:
    clock = FakeClock()
    policy = RetryPolicy(
        retry=tenacity.retry_if_exception_type(Broken),
        wait=tenacity.wait_fixed(2),
        stop=tenacity.stop_after_attempt(5),
        clock=clock,
    )
    with pytest.raises(Broken, match="run 5"):
        policy.call(failing(9, clock))
    assert clock.sleeps == (2, 2, 2, 2)
    with pytest.raises(KeyError):
        policy.call(dict[str, int]().__getitem__, "missing")
    assert len(clock.sleeps) == 4


def test_tenacitys_strategies_may_refuse_a_result() -> None:
    clock = FakeClock()
    policy = RetryPolicy(
        retry=tenacity.retry_if_result(lambda value: value is None), clock=clock, base=0.1
    )
    results = [None, None, 7]
    assert policy.call(results.pop, 0) == 7

    async def nothing() -> None:
        return None

    with pytest.raises(tenacity.RetryError) as caught:
        finished(replace(policy, stop=tenacity.stop_after_attempt(2)).acall(nothing))
    assert "gave up after 2 attempt(s)" in caught.value.__notes__[0]


def test_the_deadline_ends_what_a_users_own_strategies_would_go_on_with() -> None:
    clock = FakeClock()
    policy = RetryPolicy(
        retry=tenacity.retry_always, wait=tenacity.wait_fixed(1), stop=tenacity.stop_never,
        deadline=10.0, clock=clock, budget=RetryBudget(transient=0),
    )  # fmt: skip
    with pytest.raises(Broken, match="run 10"):
        policy.call(failing(10**9, clock))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionRefusedError(), Verdict.NOT_SENT),
        (ConnectionResetError(), Verdict.DISCONNECT),
        (TimeoutError(), Verdict.DISCONNECT),
        (Broken(), Verdict.DISCONNECT),
        (ValueError(), Verdict.FATAL),
        (KeyError(), Verdict.FATAL),
        (ConfigError(), Verdict.FATAL),
        (FileNotFoundError(), Verdict.FATAL),
        (KeyboardInterrupt(), Verdict.FATAL),
        (DeadlineExceededError(), Verdict.FATAL),
        (CircuitOpenError(retry_after=1.0), Verdict.FATAL),
        (OverloadError(), Verdict.OVERLOAD),
        (CommitUnknownError(), Verdict.COMMIT_UNKNOWN),
        (ResolveTimeoutError(), Verdict.NOT_SENT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_of_an_unknown_call_is_judged_by_its_type(
    error: BaseException, verdict: Verdict
) -> None:
    assert classify_by_type(error) is verdict


def test_a_success_path_loads_no_tenacity() -> None:
    code = (
        "import sys; from datakit import RetryPolicy\n"
        "for attempt in RetryPolicy():\n"
        "    with attempt: pass\n"
        "assert RetryPolicy().call(lambda: 7) == 7 and 'tenacity' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(
    attempt=st.integers(1, 10**6),
    base=st.floats(0, 100),
    cap=st.floats(0, 100),
    share=st.floats(0, 1),
)
def test_jitter_stays_between_zero_and_the_cap(
    attempt: int, base: float, cap: float, share: float
) -> None:
    delay = full_jitter(attempt, base, cap, lambda low, high: low + share * (high - low))
    assert 0 <= delay <= cap


def test_the_ceiling_doubles() -> None:
    ceilings = [full_jitter(n, 0.05, 1.0, lambda low, high: high) for n in range(1, 7)]
    assert ceilings == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0])


def test_an_overloaded_server_is_left_alone_for_longer() -> None:
    policy = RetryPolicy(base=0.05, cap=0.2)
    assert policy.delay(Verdict.OVERLOAD, 1, lambda low, high: high) == 1.0
    assert policy.delay(Verdict.CONFLICT, 1, lambda low, high: high) == 0.05


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts", 0), ("attempts", 2.5), ("attempts", "3"), ("attempts", True), ("base", -1.0),
        ("base", "1s"), ("cap", float("nan")), ("deadline", -0.1), ("deadline", 0), ("budget", 500),
        ("rules", {Verdict.AUTH: 3}), ("rules", {"auth": Rule()}), ("classify", "x"), ("wait", 1),
        ("stop", 3), ("retry", True), ("rules", True), ("retry", asyncio.sleep),
    ],
)  # fmt: skip
def test_an_argument_of_no_use_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("attempts", 0), ("base", -1), ("cap", "x")])
def test_a_rules_argument_of_no_use_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"Rule\({name}="):
        Rule(**{name: value})  # type: ignore[arg-type]
    assert Rule(attempts=inf).attempts == inf


def test_a_policy_is_immutable() -> None:
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 7  # type: ignore[misc]
