"""Time that moves only when a test says so."""

import asyncio
from threading import Lock

from datakit.errors import ConfigError


class FakeClock:
    """A `Clock` whose sleeps return at once and move the time instead. Thread-safe.

    monotonic: first reading of `monotonic()`, in seconds.
    wall: first reading of `wall()`, in seconds since the epoch.
    """

    def __init__(self, *, monotonic: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._lock = Lock()
        self._monotonic = monotonic
        self._wall = wall
        self._sleeps: list[float] = []

    @property
    def sleeps(self) -> tuple[float, ...]:
        """The lengths of all sleeps so far, in seconds."""
        with self._lock:
            return tuple(self._sleeps)

    def monotonic(self) -> float:
        """Return a reading that never goes back, in seconds."""
        with self._lock:
            return self._monotonic

    def wall(self) -> float:
        """Return seconds since the epoch."""
        with self._lock:
            return self._wall

    def advance(self, seconds: float) -> None:
        """Let both clocks go on by `seconds`.

        Raises:
            ConfigError: `seconds` is negative.
        """
        self._check("advance", seconds)
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def advance_wall(self, seconds: float) -> None:
        """Let only the wall clock go on by `seconds`, as in a process that was frozen.

        Raises:
            ConfigError: `seconds` is negative.
        """
        self._check("advance_wall", seconds)
        with self._lock:
            self._wall += seconds

    def sleep(self, seconds: float, /) -> None:
        """Advance by `seconds` and return at once.

        Raises:
            ConfigError: `seconds` is negative.
        """
        self._check("sleep", seconds)
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds
            self._sleeps.append(seconds)

    async def asleep(self, seconds: float, /) -> None:
        """Advance by `seconds` and let the other tasks run once.

        Raises:
            ConfigError: `seconds` is negative.
        """
        self.sleep(seconds)
        await asyncio.sleep(0)

    @staticmethod
    def _check(method: str, seconds: float) -> None:
        if not seconds >= 0:
            raise ConfigError(f"FakeClock.{method}({seconds!r}): time goes forward, give 0 or more")
