"""Whether a pooled connection may be handed out. Pure."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from cachebox import LRUCache

LOOK_EVERY: Final = 0.1
"""Seconds for which a connection that was looked at is handed out without a look."""

GRACE: Final = 5.0
"""Seconds for which a connection is kept whose address is none of its name's any more: during a
failover a record flips between old and new. Source: RDS endpoints have a TTL of 5 s."""

MAX_ADDRESSES: Final = 1_000

FROZEN: Final = 1.0
"""Seconds by which the wall clock is ahead of the monotonic one in a process that was frozen."""


class Look(Enum):
    """What to do with a connection that is about to be handed out."""

    USE = "use"
    PROBE = "probe"
    """Ask it first whether it lives."""
    DISCARD = "discard"


@dataclass(slots=True)
class Peer:
    """Where a connection leads, and when it was looked at last, on both clocks (seconds)."""

    ip: str
    seen_at: float
    seen_at_wall: float

    def is_new(self, now: float, wall: float) -> bool:
        """Return whether it was looked at a moment ago."""
        return now - self.seen_at < LOOK_EVERY and wall - self.seen_at_wall < LOOK_EVERY

    def note_seen(self, now: float, wall: float) -> None:
        """Note that it was looked at."""
        self.seen_at, self.seen_at_wall = now, wall

    def liveness(self, now: float, wall: float, probe_after: float | None) -> Look:
        """Return whether to probe it: idle for long, or in a process that was frozen meanwhile."""
        idle, idle_by_wall = now - self.seen_at, wall - self.seen_at_wall
        was_frozen = idle_by_wall - idle > FROZEN
        is_idle = probe_after is not None and max(idle, idle_by_wall) >= probe_after
        return Look.PROBE if was_frozen or is_idle else Look.USE


class Departures:
    """The addresses that are none of the name's any more, and since when (monotonic seconds)."""

    def __init__(self) -> None:
        self._since: LRUCache[str, float] = LRUCache(MAX_ADDRESSES)

    def look(self, ip: str, now: float, *, is_current: bool) -> Look:
        """Return whether a connection to `ip` may be used, by whether the name leads there now."""
        if is_current:
            self._since.pop(ip, None)
            return Look.USE
        since = self._since.get(ip)
        if since is None:
            since = self._since[ip] = now
        return Look.DISCARD if now - since >= GRACE else Look.USE

    def forget(self, ip: str) -> None:
        """Take `ip` for one of the name's: a connection was just made to it."""
        self._since.pop(ip, None)
