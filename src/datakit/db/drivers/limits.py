"""How long a driver waits for the server."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import Final

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import current, deadline, over

LAST_WORD: Final = 0.05
"""Seconds that a server has for a ROLLBACK even when the deadline is over: a healthy one takes it
in less, and its connection need not be thrown away."""

_LEAST: Final = 0.001
"""Seconds of the shortest wait: a socket takes 0 for not waiting at all."""

_UNBOUNDED: Final = nullcontext()
"""What a ROLLBACK needs without a deadline; a connection sends one each time it is given back."""

_last_word_until: ContextVar[float] = ContextVar("datakit_last_word_until", default=0.0)


def last_word() -> AbstractContextManager[None]:
    """Let what is sent in a block have `LAST_WORD` seconds, whatever is left of the deadline."""
    return _UNBOUNDED if current.get() is None else _last_word()


@contextmanager
def _last_word() -> Iterator[None]:
    token = _last_word_until.set(monotonic() + LAST_WORD)
    try:
        yield
    finally:
        _last_word_until.reset(token)


def is_over() -> bool:
    """Return whether nothing is left to wait for the server."""
    return deadline.remaining() == 0 and monotonic() >= _last_word_until.get()


def bounded(seconds: float | None) -> float | None:
    """Return the seconds to wait at most: `seconds`, or what is left to wait if that is less."""
    left = deadline.remaining()
    if left is None:
        return seconds
    left = max(_LEAST, left, _last_word_until.get() - monotonic())
    return left if seconds is None else min(left, seconds)


def refuse_late() -> None:
    """Let nothing be sent when the `deadline` is over.

    Raises:
        DeadlineExceededError: it is.
    """
    if is_over():
        raise over("the statement was not started")


def out_of_time() -> DeadlineExceededError:
    """Return the error of a wait that the `deadline` ended."""
    return over("waiting for the database")
