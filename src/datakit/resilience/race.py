"""Calls of one function side by side in threads; the first result counts."""

from collections.abc import Callable
from contextvars import copy_context
from math import inf
from threading import Event, Lock, Thread
from typing import Final, Generic, TypeVar

from datakit._clock import MAX_WAIT, WaitingClock
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.pace import SkippingClock

T = TypeVar("T")

FOREVER: Final = inf
"""Seconds that no deadline outlives."""


class Race(Generic[T]):
    """Runs `work` in daemon threads, each with the caller's context. `ended` follows each run."""

    def __init__(
        self, work: Callable[[], T], clock: WaitingClock, ended: Callable[[], None]
    ) -> None:
        self._work = work
        self._clock = clock
        self._ended = ended
        self._over = Event()
        self._lock = Lock()
        self._running = 0
        self._results: list[tuple[int, T]] = []
        self._errors: dict[int, BaseException] = {}
        self._clocks: list[SkippingClock] = []

    @property
    def is_over(self) -> bool:
        """Whether there is a result, or every call failed."""
        return self._over.is_set()

    def start(self) -> bool:
        """Start one more call; return whether the system had a thread for it."""
        clock = SkippingClock(self._clock)
        left = deadline.remaining()
        runner = Thread(
            target=copy_context().run,
            args=(self._run, len(self._clocks), FOREVER if left is None else left, clock),
            name="datakit-hedge",
            daemon=True,
        )
        with self._lock:
            self._running += 1
        try:
            runner.start()
        except RuntimeError:
            with self._lock:
                self._running -= 1
            self._ended()
            return False
        self._clocks.append(clock)
        return True

    def _run(self, number: int, seconds: float, clock: SkippingClock) -> None:
        try:
            with deadline(seconds, clock=clock):
                result = self._work()
        except BaseException as exc:  # noqa: BLE001 - goes up in the caller's thread
            self._end([], {number: exc})
        else:
            self._end([(number, result)], {})
        finally:
            self._ended()

    def _end(self, results: list[tuple[int, T]], errors: dict[int, BaseException]) -> None:
        with self._lock:
            self._running -= 1
            self._results += results
            self._errors |= errors
            if self._results or self._running == 0:
                self._over.set()

    def wait(self, seconds: float = MAX_WAIT) -> None:
        """Return when the race is over, after `seconds` or at the end of the `deadline`."""
        left = deadline.remaining()
        self._clock.wait_for(self._over, seconds if left is None else min(seconds, left))

    def result(self) -> T:
        """Return the first result.

        Raises:
            DeadlineExceededError: the race is not over.
            BaseException: what the first call raised, when there is no result.
        """
        if not self.is_over:
            raise over("waiting for the first result")
        if self._results:
            return self._results[0][1]
        raise self._errors[min(self._errors)]

    def cancel(self) -> None:
        """Let the deadline of what did not win be over."""
        winner = self._results[0][0] if self._results else None
        for number, clock in enumerate(self._clocks):
            if number != winner:
                clock.sleep(FOREVER)
