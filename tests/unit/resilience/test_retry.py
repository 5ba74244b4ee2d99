"""The retry loop: what is tried again, how often, until when, and what the caller gets."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit import events
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import RetryPolicy, Verdict, deadline
from datakit.resilience.backoff import full_jitter
from datakit.resilience.retry import acall, call
from datakit.resilience.verdict import COUNTED, UNTIL_DEADLINE
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


def run(
    mode: str, policy: RetryPolicy, verdict: Verdict, fn: Callable[[], int], clock: FakeClock
) -> int:
    """Run `fn` through the sync or the async shell."""
    if mode == "sync":
        return call(policy, lambda _: verdict, "test", fn, clock)

    async def coroutine() -> int:
        return fn()

    running = acall(policy, lambda _: verdict, "test", coroutine, clock)
    try:
        while True:
            running.send(None)
    except StopIteration as done:
        return int(done.value)


COUNTED_VERDICTS: list[Verdict] = sorted(COUNTED, key=lambda verdict: verdict.value)
LINK_VERDICTS: list[Verdict] = sorted(UNTIL_DEADLINE, key=lambda verdict: verdict.value)

both = pytest.mark.parametrize("mode", ["sync", "async"])


@both
@pytest.mark.parametrize("verdict", COUNTED_VERDICTS)
def test_counted_verdicts_are_tried_so_often_in_all(mode: str, verdict: Verdict) -> None:
    clock = FakeClock()
    assert run(mode, RetryPolicy(attempts=3), verdict, failing(2, clock), clock) == 3
    with pytest.raises(Broken, match="run 3"):
        run(mode, RetryPolicy(attempts=3), verdict, failing(3, clock), clock)


@both
@pytest.mark.parametrize("verdict", LINK_VERDICTS)
def test_lost_links_are_tried_until_the_deadline(mode: str, verdict: Verdict) -> None:
    clock = FakeClock()
    policy = RetryPolicy(attempts=1, deadline=10.0)
    assert run(mode, policy, verdict, failing(8, clock, takes=0.01), clock) == 9
    began = clock.monotonic()
    with pytest.raises(Broken):
        run(mode, policy, verdict, failing(10**9, clock, takes=0.5), clock)
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
        run(mode, RetryPolicy(), Verdict.NOT_SENT, failing(10**9, clock, takes=0.3), clock)
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


def test_the_time_running_out_does_not_hide_what_failed() -> None:
    clock = FakeClock()
    outcomes: list[Exception] = [Broken("the cause"), DeadlineExceededError("no time")]

    def fn() -> int:
        raise outcomes.pop(0)

    with pytest.raises(Broken, match="the cause"):
        call(RetryPolicy(), lambda _: Verdict.NOT_SENT, "test", fn, clock)


def test_what_an_inner_loop_gave_up_on_no_outer_loop_starts_again() -> None:
    clock = FakeClock()
    runs = failing(10**9, clock)
    policy = RetryPolicy(attempts=3)

    def wrapped() -> int:
        try:
            return call(policy, lambda _: Verdict.CONFLICT, "inner", runs, clock)
        except Broken as exc:
            raise RuntimeError("wrapped") from exc

    with pytest.raises(RuntimeError) as caught:
        call(policy, lambda _: Verdict.CONFLICT, "outer", wrapped, clock)
    assert str(caught.value.__cause__) == "run 3"


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
    [("attempts", 0), ("base", -1.0), ("cap", float("nan")), ("deadline", -0.1)],
)
def test_a_figure_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]
