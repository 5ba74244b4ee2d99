"""Where in the caller's code a statement was executed, across SQLAlchemy's greenlet switch."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

PASSED_OVER = frozenset(
    {"sqlalchemy", "datakit", "asyncio", "contextlib", "concurrent", "threading"}
)
"""Packages that execute statements on behalf of others."""


class CallSite(NamedTuple):
    """A line of code; `module` is its module's name."""

    filename: str
    lineno: int
    module: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.lineno}"


UNKNOWN = CallSite("<unknown>", 0, "<unknown>")


def call_site() -> CallSite:
    """Return the nearest line that is not SQLAlchemy's, datakit's or the event loop's.

    UNKNOWN where there is none, as in a thread whose target is SQLAlchemy's own method.
    """
    for frame in _frames():
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in PASSED_OVER:
            return CallSite(frame.f_code.co_filename, frame.f_lineno, module)
    return UNKNOWN


def _frames() -> Iterator[FrameType]:
    """Yield the frames from here outward, going on where each parent greenlet was left."""
    from greenlet import getcurrent  # not needed before the first finding

    frame: FrameType | None = sys._getframe(1)
    current = getcurrent()
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        if current.parent is None:
            return
        current = current.parent
        frame = current.gr_frame
