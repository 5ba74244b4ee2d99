"""One point in time that everything inside a `with` block honours."""

from contextvars import ContextVar, Token
from types import TracebackType

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import ConfigError, DeadlineExceededError

_current: ContextVar[tuple[float, Clock] | None] = ContextVar("datakit_deadline", default=None)


class deadline:
    """Give everything inside the block at most `seconds`; nested ones take the smaller.

    Database, cache and DNS calls of datakit wait no longer than what is left, and do not start
    an attempt when nothing is. It holds for the tasks started inside the block, and for threads
    started through `contextvars.copy_context().run`.

    Raises:
        ConfigError: `seconds` is negative or not a number.
    """

    def __init__(self, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not seconds >= 0:
            raise ConfigError(f"deadline(seconds={seconds!r}): must be 0 or more")
        self._seconds = seconds
        self._clock = clock
        self._tokens: list[Token[tuple[float, Clock] | None]] = []

    def __enter__(self) -> "deadline":
        left = deadline.remaining()
        seconds = self._seconds if left is None else min(self._seconds, left)
        self._tokens.append(_current.set((self._clock.monotonic() + seconds, self._clock)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.reset(self._tokens.pop())

    @staticmethod
    def remaining() -> float | None:
        """Return the seconds left, 0.0 when none are, None outside every block."""
        current = _current.get()
        if current is None:
            return None
        expires_at, clock = current
        return max(0.0, expires_at - clock.monotonic())

    @staticmethod
    def bound(seconds: float) -> float:
        """Return the smaller of `seconds` and what is left.

        Raises:
            DeadlineExceededError: nothing is left.
        """
        left = deadline.remaining()
        if left is None:
            return seconds
        if left <= 0:
            raise DeadlineExceededError("the deadline is over; the attempt was not started")
        return min(seconds, left)
