"""What a failure means for trying again."""

from enum import Enum


class Verdict(Enum):
    """The eight things that a failed operation can mean."""

    NOT_SENT = "not sent"
    """The server never saw the work: connect, checkout or the first BEGIN failed."""
    DISCONNECT = "disconnect"
    """The link is gone; what was sent may have executed."""
    WRITER_MOVED = "writer moved"
    """The server answers but no longer takes writes."""
    CONFLICT = "conflict"
    """The server rolled back for a concurrent transaction's sake."""
    OVERLOAD = "overload"
    """Too many connections or requests; back off for longer."""
    AUTH = "auth"
    """Credentials were refused."""
    COMMIT_UNKNOWN = "commit unknown"
    """The link was lost during COMMIT."""
    FATAL = "fatal"
    """Trying again cannot help."""


UNTIL_DEADLINE = frozenset({Verdict.NOT_SENT, Verdict.DISCONNECT, Verdict.WRITER_MOVED})
"""A failover takes 5 to 60 s, so these are tried for as long as the deadline allows."""

COUNTED = frozenset({Verdict.CONFLICT, Verdict.OVERLOAD, Verdict.AUTH})
"""These are tried `RetryPolicy.attempts` times in all."""
