"""Any number of tasks that want one key share a single run of the work."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import is_out_of_time
from datakit.resilience.per_loop import PerLoop

T = TypeVar("T")


class _Run(Generic[T]):
    """A task and how many wait for it."""

    __slots__ = ("out_of_time", "task", "waiting")

    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task = task
        self.waiting = 0
        self.out_of_time = False

    @property
    def is_under_way(self) -> bool:
        """Whether a new caller may join it: it has not ended, and is not being given up."""
        return not self.task.done() and not self.task.cancelling()


class AsyncSingleFlight(Generic[T]):
    """Shares runs between the tasks of one event loop; loops share nothing.

    The work runs in a task of its own: a cancelled waiter ends its own wait alone, and the
    work is cancelled when the last one has gone. When the work ends by the `deadline` of the
    caller that began it, the next caller takes over.
    """

    def __init__(self) -> None:
        self._runs: PerLoop[dict[Hashable, _Run[T]]] = PerLoop(dict)

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
        runs = self._runs.own()
        if runs.get(key) in _inside.get():
            return await work()  # the work asks for its own key: sharing would hang
        while True:
            run = runs.get(key)
            joined = run is not None and run.is_under_way
            if run is None or not joined:
                run = self._begin(runs, key, work)
            try:
                return await self._wait(run, key, wait if joined else None)
            except DeadlineExceededError:
                if not joined or not run.out_of_time or deadline.remaining() == 0:
                    raise

    def __contains__(self, key: Hashable) -> bool:
        """Return whether this loop has a run for `key` that another caller would join."""
        run = self._runs.own().get(key)
        return run is not None and run.is_under_way

    def forget(self, key: Hashable) -> None:
        """Let later callers of `key`, in all loops, begin a run of their own; who waits already,
        waits on."""
        with self._runs.lock:
            for runs in self._runs.all():
                runs.pop(key, None)

    def _begin(
        self,
        runs: dict[Hashable, _Run[T]],
        key: Hashable,
        work: Callable[[], Coroutine[Any, Any, T]],
    ) -> _Run[T]:
        async def marked() -> T:
            _inside.set(_inside.get() | {run})
            try:
                return await work()
            except Exception as exc:
                run.out_of_time = is_out_of_time(exc)
                raise

        def land(task: "asyncio.Task[T]") -> None:
            with self._runs.lock:
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
            if run.waiting == 0 and not run.task.done() and not run.task.get_loop().is_closed():
                run.task.cancel()


_inside: ContextVar[frozenset[_Run[Any] | None]]
_inside = ContextVar("datakit_inside_flights", default=frozenset())
"""The runs that the current task is a part of."""
