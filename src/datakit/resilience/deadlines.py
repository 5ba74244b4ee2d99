"""One point in time that everything inside a `with` block honours."""

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import DeadlineExceededError
from datakit.resilience import checks

Until = tuple[float, Clock]
"""When a block ends, and by which clock. (A plain tuple: a named one takes six times as long to
make, and one is made for every call.)"""

_current: Final[ContextVar[Until | None]] = ContextVar("datakit_deadline", default=None)

leave: Final = _current.reset
"""Ends what `enter` began."""


def enter(now: float, seconds: float, clock: Clock) -> Token[Until | None] | None:
    """Let everything from now on end after `seconds`.

    Return None when the enclosing block ends before that anyway. now: `clock`'s reading. Inside
    a block, the block's clock goes on: it may be one that is set forward to stop what runs there.

    Raises:
        DeadlineExceededError: nothing is left of the enclosing block.
    """
    outer = _current.get()
    if outer is None:
        return _current.set((now + seconds, clock))
    expires_at, outer_clock = outer
    if outer_clock is not clock:
        now = outer_clock.monotonic()
    if expires_at <= now:
        raise over("the call was not started")
    if expires_at <= now + seconds:
        return None
    return _current.set((now + seconds, outer_clock))


def _left(until: Until) -> float:
    expires_at, clock = until
    return max(0.0, expires_at - clock.monotonic())


def over(what: str) -> DeadlineExceededError:
    """Return the error that says what the deadline ended, told to subscribers too."""
    events.emit(events.DeadlineExceeded, what)
    return DeadlineExceededError(f"the deadline is over: {what}")


class deadline:
    """Give everything inside the block at most `seconds`; nested ones take the smaller.

    Database, cache and DNS calls of datakit wait no longer than what is left, and do not start
    an attempt when nothing is. It holds for the tasks started inside the block, and for threads
    started through `contextvars.copy_context().run`. Code that knows nothing of it is not
    interrupted.

    Raises:
        ConfigError: `seconds` is negative or not a number.
    """

    __slots__ = ("_clock", "_seconds", "_token")

    def __init__(self, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if seconds.__class__ is not float or not seconds >= 0.0:  # the common case costs one look
            checks.seconds("deadline", "seconds", seconds)
        self._seconds = seconds
        self._clock = clock
        self._token: Token[Until | None] | None = None

    def __enter__(self) -> "deadline":
        if self._token is not None:
            raise RuntimeError("this deadline is in use: make one for each block, deadline(...)")
        outer = _current.get()
        clock = self._clock if outer is None else outer[1]
        expires_at = clock.monotonic() + self._seconds
        if outer is not None and outer[0] < expires_at:
            expires_at = outer[0]
        self._token = _current.set((expires_at, clock))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None
        leave(self._token)
        self._token = None

    @staticmethod
    def remaining() -> float | None:
        """Return the seconds left, 0.0 when none are, None outside every block."""
        current = _current.get()
        return None if current is None else _left(current)

    @staticmethod
    def bound(seconds: float) -> float:
        """Return the smaller of `seconds` and what is left.

        Raises:
            DeadlineExceededError: nothing is left.
        """
        current = _current.get()
        if current is None:
            return seconds
        left = _left(current)
        if left <= 0:
            raise over("the attempt was not started")
        return min(seconds, left)
