"""How long the latest calls took. Pure: durations are passed in."""

from collections import deque
from typing import Final

SAMPLE: Final = 200
"""Durations kept: enough for a 99th percentile, and soon forgotten."""

_RENEW_AFTER: Final = 20
"""Durations noted between two computations of the quantile."""


class Latencies:
    """A quantile of the last 200 durations, in seconds. Not thread-safe: its owner holds a lock.

    quantile: a share, such as 0.95. minimum: durations needed before there is one.
    """

    def __init__(self, quantile: float, minimum: int) -> None:
        self._quantile = quantile
        self._minimum = minimum
        self._durations: deque[float] = deque(maxlen=SAMPLE)
        self._noted = 0
        self.value: float | None = None
        """The quantile; None while too little is known."""

    def note(self, seconds: float) -> None:
        """Take the duration of one call."""
        self._durations.append(seconds)
        self._noted += 1
        enough = self._noted >= self._minimum
        if enough and (self.value is None or self._noted % _RENEW_AFTER == 0):
            ordered = sorted(self._durations)
            self.value = ordered[min(len(ordered) - 1, int(self._quantile * len(ordered)))]
