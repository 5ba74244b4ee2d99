"""What a failure means for trying again."""

from enum import Enum


class Verdict(Enum):
    """The eight things that a failed operation can mean."""

    NOT_SENT = "not sent"
    """The server never saw the work: connect, checkout or the first BEGIN failed."""
    DISCONNECT = "disconnect"
    """The link is gone, or the call failed midway; what was sent may have executed."""
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


LINK_LOST = frozenset({Verdict.NOT_SENT, Verdict.DISCONNECT, Verdict.WRITER_MOVED})
"""The endpoint is away, and may come back."""

FINAL = frozenset({Verdict.COMMIT_UNKNOWN, Verdict.FATAL})
"""Never tried again without being told to."""
