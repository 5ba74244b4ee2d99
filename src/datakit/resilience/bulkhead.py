"""At most n at once, shared by threads and asyncio tasks; the others wait in order, bounded."""

from collections import deque
from collections.abc import Awaitable, Callable
from threading import Event, Lock
from typing import ParamSpec, TypeVar

from datakit import events
from datakit.errors import ConfigError, OverloadError
from datakit.resilience.deadlines import deadline
from datakit.resilience.forks import renew_after_fork

P = ParamSpec("P")
T = TypeVar("T")


class _Waiter:
    """A place in the queue. `granted` changes only under the bulkhead's lock."""

    __slots__ = ("granted", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.granted = False
        self.wake = wake


class Bulkhead:
    """Lets `limit` calls run at once.

    max_wait: seconds that a call waits for its turn, less when a `deadline` is nearer.
    max_waiting: calls that may wait at once; one more is refused immediately.

    Raises:
        ConfigError: a figure is out of range.
    """

    def __init__(self, limit: int, *, max_wait: float = 30.0, max_waiting: int = 1000) -> None:
        if limit < 1:
            raise ConfigError(f"Bulkhead(limit={limit!r}): must be 1 or more")
        if not max_wait >= 0:
            raise ConfigError(f"Bulkhead(max_wait={max_wait!r}): must be 0 or more seconds")
        if max_waiting < 0:
            raise ConfigError(f"Bulkhead(max_waiting={max_waiting!r}): must be 0 or more")
        self.limit = limit
        self.max_wait = max_wait
        self.max_waiting = max_waiting
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget who runs and who waits; called in a forked child, whose threads are gone."""
        self._lock = Lock()
        self._running = 0
        self._queue: deque[_Waiter] = deque()

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
        timeout = deadline.bound(self.max_wait)
        turn = Event()
        waiter = self._enter(turn.set)
        if waiter is not None:
            try:
                turn.wait(timeout)
            except BaseException:
                self._abandon(waiter)
                raise
            self._check(waiter, timeout)
        try:
            return fn(*args, **kwargs)
        finally:
            self._leave()

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `await fn(*args, **kwargs)`, run when there is a free place.

        Raises:
            OverloadError: none came free in time, or too many wait already.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        import asyncio  # loaded already wherever there is a task

        timeout = deadline.bound(self.max_wait)
        loop = asyncio.get_running_loop()
        turn = asyncio.Event()
        waiter = self._enter(lambda: loop.call_soon_threadsafe(turn.set))
        if waiter is not None:
            try:
                await asyncio.wait_for(turn.wait(), timeout)
            except TimeoutError:
                pass  # a place may have been granted in the same instant: _check knows
            except BaseException:
                self._abandon(waiter)
                raise
            self._check(waiter, timeout)
        try:
            return await fn(*args, **kwargs)
        finally:
            self._leave()

    def _enter(self, wake: Callable[[], object]) -> _Waiter | None:
        """Take a free place (None) or one in the queue."""
        with self._lock:
            if self._running < self.limit:
                self._running += 1
                return None
            if len(self._queue) < self.max_waiting:
                waiter = _Waiter(wake)
                self._queue.append(waiter)
                return waiter
        raise self._refusal(0.0)

    def _leave(self) -> None:
        """Hand the place to the first waiter that can still be woken, or free it."""
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                waiter = self._queue.popleft()
                waiter.granted = True
            try:
                waiter.wake()
                return
            except RuntimeError:  # its event loop is closed, so nobody waits there any more
                continue

    def _check(self, waiter: _Waiter, waited: float) -> None:
        with self._lock:
            if waiter.granted:
                return
            self._queue.remove(waiter)
        raise self._refusal(waited)

    def _abandon(self, waiter: _Waiter) -> None:
        with self._lock:
            if not waiter.granted:
                self._queue.remove(waiter)
                return
        self._leave()

    def _refusal(self, waited: float) -> OverloadError:
        events.emit(events.Overloaded, self.limit, round(waited, 4))
        return OverloadError(
            f"all {self.limit} places are taken and none came free in {waited:.2f} s; "
            "raise the limit or shed load earlier"
        )
