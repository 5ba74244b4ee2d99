"""A stored value and whether it may be served. Pure."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_SKEW: Final = 60.0
"""Seconds that a writer's wall clock may be ahead of ours. An entry from further in the future
cannot be judged: the clock was set back, or the two disagree."""


OVERHEAD: Final = 300
"""Bytes that an entry takes in memory beside its value and its key; measured by
benchmarks/cache.py."""


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


class Entry:
    """A stored value.

    stored_at, fresh_until: wall-clock seconds; infinity where it never expires.
    payload: the encoded value. fingerprint: of its type; 0 where there is none.
    shared: the value itself where it is immutable and never left the process.
    served_from: the wall-clock second before which it cannot be judged.
    """

    __slots__ = ("fingerprint", "fresh_until", "payload", "served_from", "shared", "stored_at")

    def __init__(
        self,
        stored_at: float,
        fresh_until: float,
        payload: bytes,
        fingerprint: int = 0,
        shared: object = UNSHARED,
    ) -> None:
        self.stored_at = stored_at
        self.served_from = stored_at - MAX_SKEW
        self.fresh_until = fresh_until
        self.payload = payload
        self.fingerprint = fingerprint
        self.shared = shared

    def size(self, key: str) -> int:
        """Return about how many bytes of memory it takes under `key`."""
        value = self.shared
        if value is UNSHARED:
            return OVERHEAD + len(key) + len(self.payload)
        return OVERHEAD + len(key) + (len(value) if isinstance(value, str | bytes) else 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self._all() == other._all()

    __hash__ = None  # type: ignore[assignment]

    def _all(self) -> tuple[object, ...]:
        return self.stored_at, self.fresh_until, self.payload, self.fingerprint, self.shared


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
    if past < 0.0:
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
