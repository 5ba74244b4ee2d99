"""At most n at once, shared by threads and asyncio tasks; the others wait in order, bounded."""

from collections.abc import Awaitable, Callable
from threading import Event, RLock
from typing import ParamSpec, TypeVar

from datakit import events
from datakit._clock import SYSTEM_CLOCK, WaitingClock
from datakit.errors import OverloadError
from datakit.resilience import checks
from datakit.resilience.deadlines import deadline
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.waiters import Waiter, WaitQueue, task_event

P = ParamSpec("P")
T = TypeVar("T")


class Bulkhead:
    """Lets `limit` calls run at once; the others wait, first come, first served.

    max_wait: seconds that a call waits for its turn, less when a `deadline` is nearer.
    max_waiting: calls that may wait at once; one more is refused immediately.

    Raises:
        ConfigError: a figure is out of range; the message names it.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_wait: float = 30.0,
        max_waiting: int = 1000,
        clock: WaitingClock = SYSTEM_CLOCK,
    ) -> None:
        checks.count("Bulkhead", "limit", limit)
        checks.seconds("Bulkhead", "max_wait", max_wait)
        checks.count("Bulkhead", "max_waiting", max_waiting, least=0)
        self.limit = limit
        self.max_wait = max_wait
        self.max_waiting = max_waiting
        self._clock = clock
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget who runs and who waits; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # a task that the garbage collector ends may leave while we hold it
        self._running = 0
        self._generation = self.__dict__.get("_generation", 0) + 1
        self._queue = WaitQueue()

    @property
    def running(self) -> int:
        """How many calls run now."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many calls wait now."""
        return len(self._queue)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, run when there is a free place.

        Raises:
            OverloadError: none came free in time, or too many wait already.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        seconds = deadline.bound(self.max_wait)
        generation = self._generation
        if not self._enter():
            turn = Event()
            waiter = self._queue_up(turn.set)
            if waiter is not None:
                try:
                    self._clock.wait_for(turn, seconds)
                except BaseException:
                    self._abandon(waiter)
                    raise
                self._check(waiter, seconds)
        try:
            return fn(*args, **kwargs)
        finally:
            self._leave(generation)

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `await fn(*args, **kwargs)`, run when there is a free place.

        Raises:
            OverloadError: none came free in time, or too many wait already.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        seconds = deadline.bound(self.max_wait)
        generation = self._generation
        if not self._enter():
            turn, wake = task_event()
            waiter = self._queue_up(wake)
            if waiter is not None:
                try:
                    await self._clock.await_for(turn, seconds)
                except BaseException:
                    self._abandon(waiter)
                    raise
                self._check(waiter, seconds)
        try:
            return await fn(*args, **kwargs)
        finally:
            self._leave(generation)

    def _enter(self) -> bool:
        """Take a free place, if there is one."""
        with self._lock:
            is_free = self._running < self.limit
            self._running += is_free
            return is_free

    def _queue_up(self, wake: Callable[[], object]) -> Waiter | None:
        """Take a place in the queue; None when a free one was there after all, and is taken."""
        waiter = Waiter(
            wake
        )  # made first: to make it may run the garbage collector, and that a leave
        with self._lock:
            if self._enter():
                return None
            if len(self._queue) < self.max_waiting:
                self._queue.join(waiter)
                return waiter
        raise self._refusal(0.0)

    def _leave(self, generation: int) -> None:
        """Hand the place to the first waiter, or free it, unless it is one of a fork's parent."""
        with self._lock:
            if generation == self._generation and self._queue.grant_first() is None:
                self._running -= 1

    def _check(self, waiter: Waiter, waited: float) -> None:
        with self._lock:
            if waiter.granted:
                return
            self._queue.leave(waiter)
        raise self._refusal(waited)

    def _abandon(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter.granted:
                self._leave(self._generation)
            else:
                self._queue.leave(waiter)

    def _refusal(self, waited: float) -> OverloadError:
        events.emit(events.Overloaded, self.limit, round(waited, 4))
        return OverloadError(
            f"all {self.limit} places are taken and none came free in {waited:.2f} s; "
            "raise the limit or shed load earlier"
        )
