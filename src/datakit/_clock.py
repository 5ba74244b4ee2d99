"""Time and randomness, injected everywhere so that tests can replace both."""

import time
from random import SystemRandom
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    import threading

MAX_WAIT: Final = 1e9
"""Seconds, about what a lock of the operating system takes at most."""


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


class WaitingClock(Clock, Protocol):
    """A clock that limits how long something is waited for, too."""

    def wait_for(self, event: "threading.Event", seconds: float, /) -> None:
        """Block the calling thread until `event` is set, for `seconds` at most."""

    async def await_for(self, event: "asyncio.Event", seconds: float, /) -> None:
        """Suspend the calling task until `event` is set, for `seconds` at most."""


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self.monotonic = time.monotonic  # found faster on the instance than on the class
        self.wall = time.time
        self.sleep = time.sleep

    async def asleep(self, seconds: float, /) -> None:
        """Suspend the calling task."""
        import asyncio  # loaded already wherever there is a task

        await asyncio.sleep(seconds)

    def wait_for(self, event: "threading.Event", seconds: float, /) -> None:
        """Block the calling thread until `event` is set, for `seconds` at most."""
        event.wait(min(seconds, MAX_WAIT))

    async def await_for(self, event: "asyncio.Event", seconds: float, /) -> None:
        """Suspend the calling task until `event` is set, for `seconds` at most."""
        import asyncio

        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass  # what was waited for may have come in the same instant: the caller looks


SYSTEM_CLOCK: WaitingClock = SystemClock()

uniform = SystemRandom().uniform
"""A float in [low, high] from the kernel: processes restored from one snapshot share a seed."""
