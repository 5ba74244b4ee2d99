"""Any number of callers of one key share a single run of the work.

`SingleFlight` serves threads, `AsyncSingleFlight` tasks; neither keeps a result.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from threading import Event, Lock, get_ident
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadline import deadline

T = TypeVar("T")


class _Flight(Generic[T]):
    """One run. It ends with a value, an error, or (leader interrupted) with neither."""

    __slots__ = ("done", "error", "leader", "values")

    def __init__(self) -> None:
        self.leader = get_ident()
        self.done = Event()
        self.values: tuple[T, ...] = ()
        self.error: Exception | None = None


class SingleFlight(Generic[T]):
    """Shares runs between threads.

    The first caller runs the work in its own thread, the others wait for its value or its
    error. When the first one is interrupted (KeyboardInterrupt), the next takes over.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return what `work()` returns in whichever thread runs it for `key`.

        Raises:
            DeadlineExceededError: the enclosing `deadline` ended while waiting for another's run.
        """
        while True:
            mine = _Flight[T]()
            with self._lock:
                flight = self._flights.setdefault(key, mine)
            if flight is mine:
                return self._lead(key, mine, work)
            if flight.leader == get_ident():  # the work asks for its own key: sharing would hang
                return work()
            if not flight.done.wait(deadline.remaining()):
                raise DeadlineExceededError(f"the deadline ended while another loaded {key!r}")
            if flight.error is not None:
                raise flight.error
            if flight.values:
                return flight.values[0]

    def _lead(self, key: Hashable, flight: _Flight[T], work: Callable[[], T]) -> T:
        try:
            value = work()
            flight.values = (value,)
            return value
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.done.set()


class _Run(Generic[T]):
    """A task and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task = task
        self.waiting = 0


class AsyncSingleFlight(Generic[T]):
    """Shares runs between the tasks of one event loop; loops share nothing.

    The work runs in a task of its own: a cancelled waiter ends its own wait alone, and the
    work is cancelled when the last one has gone.
    """

    def __init__(self) -> None:
        self._runs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Run[T]]]
        self._runs = WeakKeyDictionary()
        self._lock = Lock()

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `await work()` returns in whichever task runs it for `key`.

        Raises:
            DeadlineExceededError: the enclosing `deadline` ended while waiting.
        """
        run = self._join(key, work)
        run.waiting += 1
        limit = asyncio.timeout(deadline.remaining())
        try:
            async with limit:
                return await asyncio.shield(run.task)
        except TimeoutError as exc:
            if limit.expired():
                raise DeadlineExceededError(f"the deadline ended while loading {key!r}") from exc
            raise
        finally:
            run.waiting -= 1
            if run.waiting == 0 and not run.task.done():
                run.task.cancel()

    def _join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> _Run[T]:
        loop = asyncio.get_running_loop()
        with self._lock:
            runs = self._runs.setdefault(loop, {})
        run = runs.get(key)
        if run is None or run.task.cancelling():
            run = runs[key] = _Run(loop.create_task(work()))
            run.task.add_done_callback(lambda task: self._land(runs, key, task))
        return run

    @staticmethod
    def _land(runs: dict[Hashable, _Run[T]], key: Hashable, task: "asyncio.Task[T]") -> None:
        current = runs.get(key)
        if current is not None and current.task is task:
            del runs[key]
        if not task.cancelled():
            task.exception()  # read, so that a failure nobody waited for is not logged
