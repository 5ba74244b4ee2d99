"""How many of the latest calls failed. Pure: the time is passed in."""

from typing import Final

BUCKETS: Final = 10
"""The parts that a window slides by: a call is forgotten a tenth of the window early at most."""


class Window:
    """Counts the calls and failures of the last `seconds`, at least nine tenths of them.

    Not thread-safe: its owner holds a lock.
    """

    __slots__ = ("_bucket", "_buckets", "_width", "calls", "current", "ends_at", "failures")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget all calls."""
        self._buckets = [[0, 0] for _ in range(BUCKETS)]
        self._bucket = 0
        self.current = self._buckets[0]
        """Calls and failures of the current bucket."""
        self.ends_at = 0.0
        """The monotonic second at which another bucket becomes the current one."""
        self.calls = 0
        self.failures = 0

    def success(self, now: float) -> None:
        """Count a call that succeeded at the monotonic second `now`."""
        if now >= self.ends_at:
            self._slide(now)
        self.calls += 1
        self.current[0] += 1

    def failure(self, now: float) -> None:
        """Count a call that failed at the monotonic second `now`."""
        self.success(now)
        self.failures += 1
        self.current[1] += 1

    def _slide(self, now: float) -> None:
        """Make the bucket of `now` the current one, and forget those that are too old."""
        bucket = int(now / self._width)
        for passed in range(max(self._bucket, bucket - BUCKETS) + 1, bucket + 1):
            old = self._buckets[passed % BUCKETS]
            self.calls -= old[0]
            self.failures -= old[1]
            old[:] = (0, 0)
        self._bucket = bucket
        self.current = self._buckets[bucket % BUCKETS]
        self.ends_at = (bucket + 1) * self._width
