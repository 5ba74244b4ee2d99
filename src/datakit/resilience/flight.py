"""Any number of threads that want one key share a single run of the work."""

from collections.abc import Callable, Hashable
from threading import Event, RLock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from datakit._clock import MAX_WAIT
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.forks import renew_after_fork

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds after which those who wait look whether the run was interrupted as it ended."""


class _Flight(Generic[T]):
    """One run. It ends with a value, an error, or (leader interrupted) with neither.

    ended: whether it has, though an interrupt may have kept it from waking those who wait.
    """

    __slots__ = ("done", "ended", "error", "leader", "out_of_time", "traceback", "values")

    def __init__(self) -> None:
        self.leader = get_ident()
        self.done = Event()
        self.values: tuple[T, ...] = ()
        self.error: Exception | None = None
        self.traceback: TracebackType | None = None
        self.out_of_time = False
        self.ended = False

    def wait(self, seconds: float | None) -> bool:
        """Return whether it ends within that time."""
        until = monotonic() + (MAX_WAIT if seconds is None else min(seconds, MAX_WAIT))
        while not self.ended:
            left = until - monotonic()
            if left <= 0:
                return False
            self.done.wait(min(left, LOOK_EVERY))
        return True


class SingleFlight(Generic[T]):
    """Shares runs between threads.

    The first caller runs the work in its own thread, the others wait for its value or its
    error. When the first one is interrupted (KeyboardInterrupt) or its `deadline` ends, the next
    takes over. A forked child starts without its parent's runs.
    """

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget the runs under way; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # what the garbage collector ends may forget a run while we hold it
        self._flights: dict[Hashable, _Flight[T]] = {}

    def run(self, key: Hashable, work: Callable[[], T], *, wait: float | None = None) -> T:
        """Return what `work()` returns in whichever thread runs it for `key`.

        wait: seconds to wait for another's run, less inside a nearer `deadline`.

        Raises:
            DeadlineExceededError: that time was over before another's run ended.
        """
        while True:
            flight = mine = _Flight[T]()
            try:
                with self._lock:
                    flight = self._flights.setdefault(key, mine)
                if flight is mine:
                    value = work()
                    mine.values = (value,)
                    return value
            except Exception as exc:
                mine.error, mine.traceback = exc, exc.__traceback__
                mine.out_of_time = is_out_of_time(exc)
                raise
            finally:
                mine.ended = True  # first, and no call: no interrupt comes between
                if flight is mine:
                    self._land(key, mine)
            if flight.ended:  # just now, or where an interrupt kept it from being taken away
                self._land(key, flight)
                continue
            if flight.leader == get_ident():  # the work asks for its own key: sharing would hang
                return work()
            limits = [s for s in (wait, deadline.remaining()) if s is not None]
            if not flight.wait(min(limits, default=None)):
                raise over(f"waiting for another to load {key!r}")
            if flight.values:
                return flight.values[0]
            if flight.error is not None and not flight.out_of_time:
                raise flight.error.with_traceback(flight.traceback)  # not that of others who wait
            self._land(key, flight)

    def __contains__(self, key: Hashable) -> bool:
        """Return whether a run for `key` is under way that another caller would join."""
        return key in self._flights

    def forget(self, key: Hashable) -> None:
        """Let later callers of `key` begin a run of their own; who waits already, waits on."""
        with self._lock:
            self._flights.pop(key, None)

    def _land(self, key: Hashable, flight: _Flight[T]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:  # not in a child forked by the work
                del self._flights[key]
        flight.done.set()


def is_out_of_time(exc: Exception) -> bool:
    """Return whether work failed by the `deadline` of whoever ran it, which others may not have."""
    return isinstance(exc, DeadlineExceededError) and deadline.remaining() == 0
