"""Calls of one function side by side in tasks; the first result counts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from datakit._clock import MAX_WAIT, WaitingClock
from datakit.resilience.deadlines import deadline, over

T = TypeVar("T")


class AsyncRace(Generic[T]):
    """Runs `work` in tasks, each with the caller's context."""

    def __init__(self, work: Callable[[], Awaitable[T]], clock: WaitingClock) -> None:
        self._work = work
        self._clock = clock
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[T]] = []

    @property
    def is_over(self) -> bool:
        """Whether there is a result, or every call failed."""
        return self._over.is_set()

    def start(self) -> None:
        """Start one more call."""
        task = asyncio.get_running_loop().create_task(self._run())
        self._tasks.append(task)
        task.add_done_callback(self._end)

    async def _run(self) -> T:
        return await self._work()

    def _end(self, task: "asyncio.Task[T]") -> None:
        failed = task.cancelled() or task.exception() is not None
        if not failed or all(other.done() for other in self._tasks):
            self._over.set()

    async def wait(self, seconds: float = MAX_WAIT) -> None:
        """Return when the race is over, after `seconds` or at the end of the `deadline`."""
        left = deadline.remaining()
        await self._clock.await_for(self._over, seconds if left is None else min(seconds, left))

    def result(self) -> T:
        """Return the first result.

        Raises:
            DeadlineExceededError: the race is not over.
            BaseException: what the first call raised, when there is no result.
        """
        if not self.is_over:
            raise over("waiting for the first result")
        ended = [task for task in self._tasks if task.done()]
        for task in ended:
            if not task.cancelled() and task.exception() is None:
                return task.result()
        return ended[0].result()

    def cancel(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()
