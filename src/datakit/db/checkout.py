"""Whether a pooled connection may be handed out. Pure."""

from enum import Enum
from typing import Final

from datakit.db.target import Candidate

LOOK_EVERY: Final = 0.1
"""Seconds for which a connection that was looked at is handed out without a look."""

PEER: Final = "datakit_peer"
"""Where SQLAlchemy's record of a connection keeps its `Peer`."""

MAX_ADDRESSES: Final = 1_000

FROZEN: Final = 1.0
"""Seconds by which the wall clock is ahead of the monotonic one in a process that was frozen."""


class Look(Enum):
    """What to do with a connection that is about to be handed out."""

    USE = "use"
    PROBE = "probe"
    """Ask it first whether it lives."""
    DISCARD = "discard"


class Peer:
    """Where a connection leads, when it was made, and when it was looked at last.

    Times are seconds on both clocks. Until `fresh_until` and `fresh_until_wall` it needs no look.
    """

    __slots__ = (
        "__weakref__",
        "fresh_until",
        "fresh_until_wall",
        "is_condemned",
        "is_doubted",
        "made_at_wall",
        "seen_at",
        "seen_at_wall",
        "server",
    )

    def __init__(self, server: Candidate, now: float, wall: float) -> None:
        self.server = server
        self.made_at_wall = wall
        self.is_condemned = False
        self.note_seen(now, wall)

    def note_seen(self, now: float, wall: float) -> None:
        """Note that it was looked at."""
        self.is_doubted = False
        self.seen_at, self.seen_at_wall = now, wall
        self.fresh_until, self.fresh_until_wall = now + LOOK_EVERY, wall + LOOK_EVERY

    def doubt(self) -> None:
        """Have it probed before it is handed out: another one to its server was lost."""
        self.is_doubted = True
        self.fresh_until = 0.0

    def condemn(self) -> None:
        """Have it replaced: its server is silent, or not the right one any more."""
        self.is_condemned = True
        self.fresh_until = 0.0

    def is_fresh(self, now: float, wall: float) -> bool:
        """Return whether it was looked at a moment ago."""
        return now < self.fresh_until and wall < self.fresh_until_wall

    def look(self, now: float, wall: float, *, recycle: float, probe_after: float | None) -> Look:
        """Return whether it is condemned or too old (`recycle` seconds), or may be dead.

        It may be when it is doubted, after `probe_after` idle seconds, or in a process that was
        frozen meanwhile.
        """
        if self.is_condemned or wall - self.made_at_wall >= recycle:
            return Look.DISCARD
        idle, idle_by_wall = now - self.seen_at, wall - self.seen_at_wall
        was_frozen = idle_by_wall - idle > FROZEN
        is_idle = probe_after is not None and max(idle, idle_by_wall) >= probe_after
        return Look.PROBE if self.is_doubted or was_frozen or is_idle else Look.USE
