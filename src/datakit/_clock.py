"""Time and randomness, injected everywhere so that tests can replace both."""

import time
from random import SystemRandom
from typing import Protocol


class Clock(Protocol):
    """What a component may ask of time. All figures are seconds."""

    def monotonic(self) -> float:
        """Return a reading that never goes back."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block the calling thread."""

    async def asleep(self, seconds: float, /) -> None:
        """Suspend the calling task."""


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    sleep = staticmethod(time.sleep)

    async def asleep(self, seconds: float, /) -> None:
        """Suspend the calling task."""
        import asyncio  # loaded already wherever there is a task

        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()

uniform = SystemRandom().uniform
"""A float in [low, high] from the kernel: processes restored from one snapshot share a seed."""
