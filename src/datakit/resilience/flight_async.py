"""Any number of tasks that want one key share a single run of the work."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline

T = TypeVar("T")


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
