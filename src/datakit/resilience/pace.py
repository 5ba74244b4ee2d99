"""How loops pass the time between attempts: by sleeping or, in an application's tests, not."""

from datakit._clock import Clock


class Pace:
    """What one `datakit.testing.no_sleep` changes, for the whole process.

    attempts: at most so many an operation; None for the policy's own number.
    """

    def __init__(self, attempts: int | None) -> None:
        self.attempts = attempts


paces: list[Pace] = []
"""Those in force; the latest counts."""


class SkippingClock:
    """A clock whose sleeps take no time and count as if they did, so that deadlines end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._skipped = 0.0

    def monotonic(self) -> float:
        """Return a reading that never goes back, in seconds."""
        return self._clock.monotonic() + self._skipped

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return self._clock.wall() + self._skipped

    def sleep(self, seconds: float, /) -> None:
        """Count `seconds` as passed."""
        self._skipped += seconds

    async def asleep(self, seconds: float, /) -> None:
        """Count `seconds` as passed and let the other tasks run once."""
        self._skipped += seconds
        await self._clock.asleep(0)


def paced(clock: Clock) -> Clock:
    """Return the clock that a loop sleeps by."""
    return SkippingClock(clock) if paces else clock


def attempts_exhausted(attempt: int) -> bool:
    """Return whether a test allows no attempt after number `attempt`."""
    most = paces[-1].attempts if paces else None
    return most is not None and attempt >= most
