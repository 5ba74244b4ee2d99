"""Time that moves only when a test says so."""

import asyncio
from threading import Event, Lock
from typing import Final

from datakit.errors import ConfigError

_LOOK_EVERY: Final = 0.0005
"""Real seconds between two looks at the fake time."""


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

    def wait_for(self, event: Event, seconds: float, /) -> None:
        """Block until `event` is set or somebody else has advanced the clock by `seconds`."""
        until = self.monotonic() + seconds
        while not event.wait(_LOOK_EVERY) and self.monotonic() < until:
            pass

    async def await_for(self, event: asyncio.Event, seconds: float, /) -> None:
        """Suspend until `event` is set or somebody else has advanced the clock by `seconds`."""
        until = self.monotonic() + seconds
        while not event.is_set() and self.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the other half of the condition is no event

    @staticmethod
    def _check(method: str, seconds: float) -> None:
        if not seconds >= 0:
            raise ConfigError(f"FakeClock.{method}({seconds!r}): time goes forward, give 0 or more")
