"""Text that is not shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Masked(str):
    """A password for those who show what they hold: tracebacks with variables, debuggers, logs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return self  # SQLAlchemy takes str() of a URL's password: it stays masked


def without_frames(error: BaseException) -> BaseException:
    """Return `error` without the frames it came through, whose variables may hold a password."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


_unlogged: ContextVar[bool] = ContextVar("datakit_unlogged", default=False)


def _passes(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not _unlogged.get()


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep botocore from logging what it sends and gets, here and in no other thread.

    At DEBUG it writes whole requests and answers: session tokens and secrets.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("botocore.") and isinstance(logger, logging.Logger):
            logger.addFilter(_passes)
    token = _unlogged.set(True)
    try:
        yield
    finally:
        _unlogged.reset(token)
