import asyncio
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from datakit.errors import ConfigError
from datakit.testing import FakeClock

if TYPE_CHECKING:
    from datakit._clock import Clock


def test_sleep_moves_both_clocks_and_is_recorded() -> None:
    """A sleep returns at once and takes its length on both clocks."""
    clock = FakeClock(monotonic=5.0, wall=100.0)
    clock.sleep(2.5)
    assert (clock.monotonic(), clock.wall(), clock.sleeps) == (7.5, 102.5, (2.5,))


async def test_asleep_lets_other_tasks_run() -> None:
    """An awaited sleep is a point where another task gets its turn."""
    clock = FakeClock(monotonic=0.0)
    seen: list[float] = []

    async def other() -> None:
        seen.append(clock.monotonic())

    task = asyncio.create_task(other())
    await clock.asleep(3.0)
    assert seen == [3.0]
    await task


def test_advance_is_no_sleep() -> None:
    """Time that passes by itself is not counted as slept."""
    clock = FakeClock(monotonic=0.0, wall=0.0)
    clock.advance(1.0)
    assert (clock.monotonic(), clock.wall(), clock.sleeps) == (1.0, 1.0, ())


def test_frozen_process_sees_only_the_wall_clock_move() -> None:
    """advance_wall leaves the monotonic clock where it was."""
    clock = FakeClock(monotonic=1.0, wall=1.0)
    clock.advance_wall(3600.0)
    assert (clock.monotonic(), clock.wall()) == (1.0, 3601.0)


@pytest.mark.parametrize("method", ["advance", "advance_wall", "sleep"])
@pytest.mark.parametrize("seconds", [-0.1, float("nan")])
def test_time_goes_forward_only(method: str, seconds: float) -> None:
    """A negative step is refused with the method's name and changes nothing."""
    clock = FakeClock(monotonic=1.0, wall=1.0)
    with pytest.raises(ConfigError, match=method):
        getattr(clock, method)(seconds)
    assert (clock.monotonic(), clock.wall()) == (1.0, 1.0)


def test_threads_lose_no_step() -> None:
    """Steps made by several threads at once all count."""
    clock = FakeClock(monotonic=0.0)

    def steps() -> None:
        for _ in range(1000):
            clock.advance(1.0)

    threads = [Thread(target=steps) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 4000.0


def test_fake_clock_is_a_clock() -> None:
    """The fake fits where the package takes a Clock, for the type checkers too."""
    clock: Clock = FakeClock()
    assert clock.wall() > clock.monotonic()
