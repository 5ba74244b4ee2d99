"""How much of a caller's time the cache may take: the load that follows needs some, too."""

from typing import Final

from datakit.resilience.deadlines import deadline, over

TELLING: Final = 0.1
"""Seconds of silence that say something of a server, and not of a caller in a hurry."""


def share(seconds: float, *, whole: bool = False) -> float:
    """Return `seconds`, or half of what is left of the enclosing `deadline` when that is less.

    whole: all of it instead of half, where nothing follows.

    Raises:
        DeadlineExceededError: nothing is left.
    """
    left = deadline.remaining()
    if left is None:
        return seconds
    if left <= 0:
        raise over("the cache was not asked")
    return min(seconds, left if whole else left / 2)


QUEUE_FOR: Final = 30.0
"""Seconds to wait for a free connection: each comes back after an exchange's time at most."""


def busy(seconds: float) -> Exception:
    """Return the error of a wait of so many seconds for a free connection. That says nothing of the
    server where it is the caller's `deadline` that ended it."""
    what = "all connections to the cache are busy"
    return over(what) if seconds < QUEUE_FOR else TimeoutError(what)


def tells(silence: float, usual: float) -> bool:
    """Return whether so many seconds without an answer, where there are `usual` ones, say
    something of the server."""
    return silence >= min(usual, TELLING)


def is_timeout(exc: Exception) -> bool:
    """Return whether `exc`, also one of redis-py's, says that nothing came in time."""
    return isinstance(exc, TimeoutError) or type(exc).__name__ == "TimeoutError"


def is_loss(exc: Exception) -> bool:
    """Return whether `exc`, also one of redis-py's, says that the server is away or silent."""
    return isinstance(exc, OSError) or type(exc).__name__ in ("TimeoutError", "ConnectionError")
