"""Any number of tasks that want one key share a single run of the work."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import ContextVar
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import is_out_of_time
from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")


class _Run(Generic[T]):
    """A task and how many wait for it."""

    __slots__ = ("out_of_time", "task", "waiting")

    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task = task
        self.waiting = 0
        self.out_of_time = False


class AsyncSingleFlight(Generic[T]):
    """Shares runs between the tasks of one event loop; loops share nothing.

    The work runs in a task of its own: a cancelled waiter ends its own wait alone, and the
    work is cancelled when the last one has gone. When the work ends by the `deadline` of the
    caller that began it, the next caller takes over.
    """

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget the runs under way; called in a forked child, whose parent's loops are not its."""
        self._runs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Run[T]]]
        self._runs = WeakKeyDictionary()
        self._lock = Lock()

    async def run(
        self,
        key: Hashable,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        wait: float | None = None,
    ) -> T:
        """Return what `await work()` returns in whichever task runs it for `key`.

        wait: seconds to wait for another's run, less inside a nearer `deadline`.

        Raises:
            DeadlineExceededError: that time was over before the run ended.
        """
        with self._lock:
            runs = self._runs.setdefault(asyncio.get_running_loop(), {})
        if (id(self), key) in _inside.get() and key in runs:
            return await work()  # the work asks for its own key: sharing would hang
        while True:
            run = runs.get(key)
            joined = run is not None and not run.task.cancelling()
            if run is None or not joined:
                run = self._begin(runs, key, work)
            try:
                return await self._wait(run, key, wait if joined else None)
            except DeadlineExceededError:
                if not joined or not run.out_of_time or deadline.remaining() == 0:
                    raise

    def __contains__(self, key: Hashable) -> bool:
        """Return whether this loop has a run for `key` that another caller would join."""
        return key in self._runs.get(asyncio.get_running_loop(), ())

    def forget(self, key: Hashable) -> None:
        """Let later callers of `key`, in all loops, begin a run of their own; who waits already,
        waits on."""
        with self._lock:
            for runs in self._runs.values():
                runs.pop(key, None)

    def _begin(
        self,
        runs: dict[Hashable, _Run[T]],
        key: Hashable,
        work: Callable[[], Coroutine[Any, Any, T]],
    ) -> _Run[T]:
        async def marked() -> T:
            _inside.set(_inside.get() | {(id(self), key)})
            try:
                return await work()
            except Exception as exc:
                run.out_of_time = is_out_of_time(exc)
                raise

        def land(task: "asyncio.Task[T]") -> None:
            if runs.get(key) is run:
                del runs[key]
            if not task.cancelled():
                task.exception()  # read, so that a failure nobody waited for is not logged

        run = runs[key] = _Run(asyncio.get_running_loop().create_task(marked()))
        run.task.add_done_callback(land)
        return run

    @staticmethod
    async def _wait(run: _Run[T], key: Hashable, wait: float | None) -> T:
        run.waiting += 1
        limits = [s for s in (wait, deadline.remaining()) if s is not None]
        limit = asyncio.timeout(min(limits, default=None))
        try:
            async with limit:
                return await asyncio.shield(run.task)
        except TimeoutError as exc:
            if limit.expired():
                raise over(f"waiting for another to load {key!r}") from exc
            raise
        finally:
            run.waiting -= 1
            if run.waiting == 0 and not run.task.done():
                run.task.cancel()


_inside: ContextVar[frozenset[tuple[int, Hashable]]]
_inside = ContextVar("datakit_inside_flights", default=frozenset())
"""The runs that the current task is a part of."""
