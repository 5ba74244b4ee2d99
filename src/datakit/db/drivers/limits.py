"""How long a driver waits for the server."""

from typing import Final

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline, over

LAST_WORD: Final = 0.05
"""Seconds that a server has even when the deadline is over: a healthy one takes a ROLLBACK in less,
and its connection need not be thrown away."""


def bounded(seconds: float | None) -> float | None:
    """Return the seconds to wait at most: `seconds`, or what is left of the `deadline` if less."""
    left = deadline.remaining()
    if left is None:
        return seconds
    return max(LAST_WORD, left if seconds is None else min(left, seconds))


def out_of_time() -> DeadlineExceededError:
    """Return the error of a wait that the `deadline` ended."""
    return over("waiting for the database")
