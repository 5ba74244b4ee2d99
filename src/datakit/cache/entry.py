"""A stored value and whether it may be served. Pure."""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MAX_SKEW: Final = 60.0
"""Seconds that a writer's wall clock may be ahead of ours. An entry from further in the future
cannot be judged: the clock was set back, or the two disagree."""


class Decision(Enum):
    """What to do with what was found under a key."""

    HIT = "hit"
    """Serve it."""
    AHEAD = "refresh ahead"
    """Serve it; one caller loads the next one."""
    STALE = "stale while revalidating"
    """Serve it past its time; one caller loads the next one."""
    SPARE = "stale if error"
    """Load, and serve it only when the load fails or takes too long."""
    MISS = "miss"
    """Load."""
    UNASKED = "unavailable"
    """Load without the cache, which could not be asked."""

    @property
    def is_fresh(self) -> bool:
        """Whether what was found has not reached its time."""
        return self in (Decision.HIT, Decision.AHEAD)


HIT: Final = Decision.HIT
AHEAD: Final = Decision.AHEAD
STALE: Final = Decision.STALE
SPARE: Final = Decision.SPARE
MISS: Final = Decision.MISS
UNASKED: Final = Decision.UNASKED


class Unshared(Enum):
    """The type of `UNSHARED`."""

    UNSHARED = "unshared"


UNSHARED: Final = Unshared.UNSHARED
"""Stands in `Entry.shared` where the value must be decoded anew for everyone who asks."""


class EntryError(ValueError):
    """Stored bytes that are no entry of this key; the text says why and holds none of them."""


@dataclass(slots=True)
class Entry:
    """A stored value.

    stored_at, fresh_until: wall-clock seconds; infinity where it never expires.
    payload: the encoded value. fingerprint: of its type; 0 where there is none.
    shared: the value itself where it is immutable and never left the process.
    """

    stored_at: float
    fresh_until: float
    payload: bytes
    fingerprint: int = 0
    shared: object = UNSHARED
    served_from: float = field(init=False, compare=False, repr=False)
    """The wall-clock second before which it cannot be judged."""

    def __post_init__(self) -> None:
        self.served_from = self.stored_at - MAX_SKEW


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a function allows. ahead: a share of the TTL; the others: seconds past it."""

    ahead: float | None = None
    while_revalidate: float = 0.0
    if_error: float = 0.0

    @property
    def kept(self) -> float:
        """Seconds past its TTL that a store must keep a value."""
        return max(self.while_revalidate, self.if_error)


def decide(entry: Entry, now: float, freshness: Freshness) -> Decision:
    """Return what to do with `entry` at the wall-clock second `now`."""
    if now < entry.served_from:
        return MISS
    past = now - entry.fresh_until
    if past < 0:
        if freshness.ahead is None or entry.fresh_until == math.inf:
            return HIT
        turn = entry.stored_at + freshness.ahead * (entry.fresh_until - entry.stored_at)
        return HIT if now < turn else AHEAD
    if past < freshness.while_revalidate:
        return STALE
    return SPARE if past < freshness.if_error else MISS


def expiry(stored_at: float, seconds: float) -> float:
    """Return the wall-clock second at which a value stored for `seconds` expires."""
    return math.inf if seconds == math.inf else stored_at + seconds
