"""One point in time that everything inside a `with` block honours."""

from contextvars import ContextVar, Token
from math import inf
from types import TracebackType
from typing import Final

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import DeadlineExceededError
from datakit.resilience import checks

Until = tuple[float, Clock, "Until | None", "Until | None", bool]
"""When a block ends, by which clock, the block around it, in a copy the original, and whether it is
a caller's, not a policy's own. (A plain tuple: one is made for every call, and a named one takes
six times as long.)"""

current: Final[ContextVar[Until | None]] = ContextVar("datakit_deadline", default=None)
"""The innermost block that holds here."""


def enter(now: float, seconds: float, clock: Clock) -> Until | None:
    """Let everything from now on end after `seconds`; return what `leave` takes.

    Return None when the enclosing block ends before that anyway. now: `clock`'s reading. Inside
    a block, the block's clock goes on: it may be one that is set forward to stop what runs there.

    Raises:
        DeadlineExceededError: nothing is left of the enclosing block.
    """
    outer = current.get()
    if outer is not None:
        expires_at, outer_clock = outer[0], outer[1]
        if outer_clock is not clock:
            now = outer_clock.monotonic()
            clock = outer_clock
        if expires_at <= now:
            raise over("the call was not started")
        if expires_at <= now + seconds:
            return None
    block = (now + seconds, clock, outer, None, False)
    try:
        current.set(block)
    except BaseException:  # a signal's, right after: nobody would leave the block
        current.set(outer)
        raise
    return block


def leave(block: Until) -> None:
    """End a block, also when others that were entered later have not ended, as generators' may,
    or when it is done in another context, where the block does not hold anyway."""
    until = current.get()
    if until is not None:
        rest = _without(block, until)
        if rest is not until:
            current.set(rest)


def _without(block: Until, until: Until) -> Until | None:
    expires_at, clock, outer, original, is_callers = until
    if until is block or original is block:
        return outer
    rest = None if outer is None else _without(block, outer)
    return until if rest is outer else (expires_at, clock, rest, original or until, is_callers)


def _left(until: Until) -> float:
    return max(0.0, until[0] - until[1].monotonic())


def is_callers() -> bool:
    """Return whether the block that ends next is a caller's `deadline`, not a policy's own."""
    until = current.get()
    return until is not None and until[4]


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

    __slots__ = ("_block", "_clock", "_seconds", "_token")

    def __init__(self, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not (seconds.__class__ is float and seconds >= 0.0):
            checks.seconds("deadline", "seconds", seconds)
        self._seconds = seconds
        self._clock = clock
        self._token: Token[Until | None] | None = None
        self._block: Until

    def __enter__(self) -> "deadline":
        outer = current.get()
        if outer is None:
            clock = self._clock
            block: Until = (clock.monotonic() + self._seconds, clock, None, None, True)
        else:
            clock = outer[1]
            expires_at = clock.monotonic() + self._seconds
            block = (expires_at if expires_at < outer[0] else outer[0], clock, outer, None, True)
        if self._token is not None:
            raise RuntimeError("this deadline is in use: make one for each block, deadline(...)")
        self._block = block
        try:
            self._token = current.set(block)
        except BaseException:  # a signal's, right after: nobody would leave the block
            current.set(outer)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        token = self._token
        self._token = None
        if current.get() is self._block:
            try:
                current.reset(token)  # type: ignore[arg-type]  # takes half as long as to set it
                return
            except ValueError:  # another context, a copy of the block's
                pass
        leave(self._block)

    @staticmethod
    def remaining() -> float | None:
        """Return the seconds left, 0.0 when none are, None when nothing is bounded."""
        until = current.get()
        if until is None:
            return None
        left = _left(until)
        return None if left == inf else left

    @staticmethod
    def bound(seconds: float) -> float:
        """Return the smaller of `seconds` and what is left.

        Raises:
            DeadlineExceededError: nothing is left.
        """
        until = current.get()
        if until is None:
            return seconds
        left = _left(until)
        if left <= 0:
            raise over("the attempt was not started")
        return min(seconds, left)
