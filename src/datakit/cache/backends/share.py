"""How much of a caller's time the cache may take: the load that follows needs some, too."""

from typing import Final

from datakit.resilience.deadlines import deadline, over

TELLING: Final = 0.1
"""Seconds of silence that say something of a server, and not of a caller in a hurry."""


def share(seconds: float) -> float:
    """Return `seconds`, or half of what is left of the enclosing `deadline` when that is less.

    Raises:
        DeadlineExceededError: nothing is left.
    """
    left = deadline.remaining()
    if left is None:
        return seconds
    if left <= 0:
        raise over("the cache was not asked")
    return min(seconds, left / 2)


def tells(given: float, usual: float) -> bool:
    """Return whether a server that was given so many seconds, where it has `usual` ones, and did
    not answer is at fault."""
    return given >= min(usual, TELLING)
