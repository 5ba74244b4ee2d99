"""Calls to a failing endpoint refused until a few probes got through."""

from collections.abc import Awaitable, Callable
from enum import Enum
from threading import RLock
from typing import Final, ParamSpec, TypeVar

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import (
    CircuitOpenError,
    ConfigError,
    DatakitError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience import checks
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.window import Window

P = ParamSpec("P")
T = TypeVar("T")


class State(Enum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    """All go through."""
    OPEN = "open"
    """None goes through."""
    HALF_OPEN = "half-open"
    """A few go through, as probes."""


_CLOSED: Final = State.CLOSED


def counts_against(exc: Exception) -> bool:
    """Return whether `exc` says something about the endpoint: all but datakit's own refusals.

    A bulkhead, a breaker, a deadline or an argument of no use has kept the call from it. (An
    endpoint that is slower than its callers' deadlines is found out by `slow_call`.)
    """
    return not isinstance(exc, DatakitError) or isinstance(
        exc, ResolveTimeoutError | ServerFailureError
    )


class CircuitBreaker:
    """Refuses calls while an endpoint fails, so that nobody waits for it and it can recover.

    Closed, it lets all calls through and counts them. It opens when of at least `minimum_calls`
    in the last `window` seconds a share of `failure_rate` failed; then every call is refused for
    `open_time` seconds. Half-open, it lets `probes` calls through: when all succeed it closes,
    when one fails it opens for twice as long, up to `max_open_time`. One state for the threads
    and tasks of a process; a probe that is cancelled gives its place back, and probes that never
    end are replaced after another open time.

    failure_rate: a share, above 0 and at most 1. window, open_time, max_open_time: seconds.
    slow_call: seconds after which a success counts as a failure; None for never.
    counts: whether an exception is the endpoint's failure; others count neither way.
    name: what events and errors call it.

    Raises:
        ConfigError: an argument is out of range; the message names it.

    Source: Hystrix's defaults (50 % of at least 20 requests in 10 s, 5 s until a probe).
    """

    def __init__(
        self,
        *,
        failure_rate: float = 0.5,
        minimum_calls: int = 20,
        window: float = 10.0,
        open_time: float = 5.0,
        max_open_time: float = 30.0,
        probes: int = 3,
        slow_call: float | None = None,
        counts: Callable[[Exception], bool] = counts_against,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        owner = type(self).__name__
        checks.share(owner, "failure_rate", failure_rate)
        checks.count(owner, "minimum_calls", minimum_calls)
        checks.seconds(owner, "window", window, above_zero=True)
        checks.seconds(owner, "open_time", open_time, above_zero=True)
        checks.seconds(owner, "max_open_time", max_open_time, above_zero=True)
        checks.count(owner, "probes", probes)
        checks.function(owner, "counts", counts)
        if slow_call is not None:
            checks.seconds(owner, "slow_call", slow_call, above_zero=True)
        if max_open_time < open_time:
            raise ConfigError(
                f"{owner}(max_open_time={max_open_time!r}): must be open_time ({open_time!r}) "
                "or more seconds"
            )
        self.name = name
        self._failure_rate = failure_rate
        self._minimum_calls = minimum_calls
        self._first_open_time = open_time
        self._max_open_time = max_open_time
        self._probes = probes
        self._slow_call = slow_call
        self._counts = counts
        self._clock = clock
        self._window = Window(window)
        self._state = _CLOSED
        self._open_time = 0.0
        """Seconds, of the current or the last time that it was open; 0 after it closed."""
        self._changes_at = 0.0
        """When it becomes half-open; when it grants new probes, while it is half-open."""
        self._places = 0
        self._successes = 0
        self._generation = 0
        """Grows with each change of state: what began before it is not counted after it."""
        self._closed_generation = 0
        """The generation while it is closed, else -1: the one look that a call takes."""
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds.

        The state stays; probes that the parent has under way are its own.
        """
        self._lock = RLock()
        if self._state is State.HALF_OPEN:
            self._grant_probes(self._clock.monotonic())

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, {self.state.value})"

    @property
    def state(self) -> State:
        """What the next call would meet."""
        if self._state is State.OPEN and self._clock.monotonic() >= self._changes_at:
            return State.HALF_OPEN
        return self._state

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)` and count how it ended.

        Raises:
            CircuitOpenError: the call was refused and not begun.
            BaseException: what `fn` raises.
        """
        permit = self._closed_generation
        if permit < 0:
            permit = self._admit()
        started = None if self._slow_call is None else self._clock.monotonic()
        try:
            result = fn(*args, **kwargs)
        except BaseException as exc:
            self._failed(permit, exc)
            raise
        window = self._window
        now = self._clock.monotonic()
        if started is None and permit == self._closed_generation and now < window.ends_at:
            window.calls += 1  # whole under the GIL; without one, a count may rarely be lost
            window.current[0] += 1
        else:
            self._succeeded(permit, started, now)
        return result

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `await fn(*args, **kwargs)` and count how it ended.

        Raises:
            CircuitOpenError: the call was refused and not begun.
            BaseException: what `fn` raises.
        """
        permit = self._closed_generation
        if permit < 0:
            permit = self._admit()
        started = None if self._slow_call is None else self._clock.monotonic()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as exc:
            self._failed(permit, exc)
            raise
        window = self._window
        now = self._clock.monotonic()
        if started is None and permit == self._closed_generation and now < window.ends_at:
            window.calls += 1  # whole under the GIL; without one, a count may rarely be lost
            window.current[0] += 1
        else:
            self._succeeded(permit, started, now)
        return result

    def _admit(self) -> int:
        """Return the generation in which a call may begin, as a probe unless it closed meanwhile.

        Raises:
            CircuitOpenError: none may.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._state is not _CLOSED:
                if self._state is State.OPEN and now >= self._changes_at:
                    self._state = State.HALF_OPEN
                    self._successes = 0
                    self._grant_probes(now)
                elif now >= self._changes_at and self._places == 0:
                    self._grant_probes(now)  # those under way are not heard of any more
                if self._state is State.OPEN or self._places == 0:
                    raise self._refusal(self._changes_at - now)
                self._places -= 1
            return self._generation

    def _grant_probes(self, now: float) -> None:
        self._generation += 1
        self._places = self._probes - self._successes
        self._changes_at = now + self._open_time

    def _refusal(self, retry_after: float) -> CircuitOpenError:
        return CircuitOpenError(
            f"the breaker {self.name or 'of this endpoint'} is {self._state.value} after too many "
            f"failures; the next probe is in {retry_after:.2f} s at the latest",
            retry_after=retry_after,
        )

    def _succeeded(self, permit: int, started: float | None, now: float) -> None:
        slow_call = self._slow_call
        if slow_call is not None and started is not None and now - started >= slow_call:
            return self._count_failure(permit, now)
        with self._lock:
            if permit != self._generation:
                return None
            if self._state is _CLOSED:
                return self._window.success(now)
            self._successes += 1
            if self._successes < self._probes:
                return None
            self._close()
        events.emit(events.BreakerClosed, self.name)
        return None

    def _close(self) -> None:
        self._state = _CLOSED
        self._generation += 1
        self._closed_generation = self._generation
        self._open_time = 0.0
        self._window.clear()

    def _failed(self, permit: int, exc: BaseException) -> None:
        try:
            if isinstance(exc, Exception) and self._counts(exc):
                self._count_failure(permit, self._clock.monotonic())
                return
        except BaseException:  # the user's function: its bug must not keep a probe's place
            self._give_back(permit)
            raise
        self._give_back(permit)

    def _give_back(self, permit: int) -> None:
        with self._lock:
            if permit == self._generation and self._state is State.HALF_OPEN:
                self._places += 1

    def _count_failure(self, permit: int, now: float) -> None:
        with self._lock:
            if permit != self._generation:
                return
            rate = 1.0
            if self._state is _CLOSED:
                window = self._window
                window.failure(now)
                rate = window.failures / window.calls
                if window.calls < self._minimum_calls or rate < self._failure_rate:
                    return
            self._open(now)
            open_for = self._open_time
        events.emit(events.BreakerOpened, self.name, round(rate, 4), open_for)

    def _open(self, now: float) -> None:
        self._state = State.OPEN
        self._generation += 1
        self._closed_generation = -1
        doubled = min(self._open_time * 2, self._max_open_time)
        self._open_time = doubled or self._first_open_time
        self._changes_at = now + self._open_time
