"""One deadline for everything inside the block."""

import asyncio
import contextvars
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import RetryPolicy, deadline
from datakit.testing import FakeClock

seconds = st.floats(0, 1e6)


def test_outside_every_block_nothing_is_bounded() -> None:
    assert deadline.remaining() is None
    assert deadline.bound(7.0) == 7.0


@given(outer=seconds, inner=seconds, passed=seconds)
def test_nested_blocks_take_the_smaller(outer: float, inner: float, passed: float) -> None:
    clock = FakeClock(monotonic=0.0)
    with deadline(outer, clock=clock):
        with deadline(inner, clock=clock):
            clock.advance(passed)
            left = deadline.remaining()
        assert left == pytest.approx(max(0.0, min(outer, inner) - passed))
        assert deadline.remaining() == pytest.approx(max(0.0, outer - passed))
    assert deadline.remaining() is None


def test_nothing_left_starts_no_attempt() -> None:
    clock = FakeClock()
    with deadline(1.0, clock=clock):
        assert deadline.bound(5.0) == pytest.approx(1.0)
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError):
            deadline.bound(5.0)


def test_it_reaches_threads_through_copy_context() -> None:
    with ThreadPoolExecutor(1) as pool, deadline(5.0):
        copied = pool.submit(contextvars.copy_context().run, deadline.remaining).result()
        plain = pool.submit(deadline.remaining).result()
    assert copied is not None
    assert plain is None


async def test_it_reaches_tasks_started_inside() -> None:
    async def left() -> float | None:
        return deadline.remaining()

    with deadline(5.0):
        task = asyncio.create_task(left())
    assert await task is not None
    assert deadline.remaining() is None


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_impossible_times_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="deadline"):
        deadline(bad)


def blocks(seconds: float, clock: FakeClock) -> Iterator[float | None]:
    with deadline(seconds, clock=clock):
        yield deadline.remaining()


def attempts(seconds: float, clock: FakeClock) -> Iterator[float | None]:
    for attempt in RetryPolicy(deadline=seconds, clock=clock):
        with attempt:
            yield deadline.remaining()


@pytest.mark.parametrize("make", [blocks, attempts])
@pytest.mark.parametrize("first", [0, 1])
def test_blocks_in_generators_may_end_in_any_order(
    make: Callable[[float, FakeClock], Iterator[float | None]], first: int
) -> None:
    clock = FakeClock()
    generators = [make(3.0, clock), make(2.0, clock)]
    assert [next(generator) for generator in generators] == [3.0, 2.0]
    generators[first].close()  # type: ignore[attr-defined]
    assert deadline.remaining() == (2.0 if first == 0 else 3.0)
    generators[1 - first].close()  # type: ignore[attr-defined]
    assert deadline.remaining() is None


def test_one_object_is_for_one_block_at_a_time() -> None:
    block = deadline(5.0, clock=FakeClock())
    for _ in range(2):
        with block, pytest.raises(RuntimeError, match="in use"):
            block.__enter__()
    assert deadline.remaining() is None


async def test_a_block_left_in_another_context_harms_nobody() -> None:
    async def steps() -> AsyncIterator[int]:
        with deadline(5.0):
            yield 1

    generator = steps()
    await anext(generator)
    await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]


def test_without_an_end_nothing_is_bounded() -> None:
    with deadline(float("inf")):
        assert deadline.remaining() is None
        assert deadline.bound(7.0) == 7.0
        with deadline(3.0):
            assert deadline.remaining() is not None


def test_a_call_that_a_signal_ends_leaves_no_deadline_behind() -> None:
    """Whatever comes later in the thread would be refused once it is over."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    policy = RetryPolicy(deadline=5.0)
    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        for step in range(1_000):
            with suppress(Interrupt):
                signal.setitimer(signal.ITIMER_VIRTUAL, 1e-4 + step * 1e-7)
                while True:
                    policy.call(int)
            assert deadline.remaining() is None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
