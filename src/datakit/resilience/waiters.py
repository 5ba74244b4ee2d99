"""A queue of threads and tasks that wait for something to be granted to them, in order."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class Waiter:
    """A place in a queue. `granted` and `place` change only under the lock of the queue's owner.

    wake: called under that lock when the place is granted.
    """

    __slots__ = ("_wake", "granted", "place")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self.granted = False
        self.place = 0
        """How many were granted at the same time before it."""

    def grant(self) -> bool:
        """Wake the waiter; return False when its event loop is closed, so that nobody waits."""
        self.granted = True
        try:
            self._wake()
        except RuntimeError:
            return False
        return True


class WaitQueue:
    """First come, first served. Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Put `waiter` at the end."""
        self._waiters.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Give up a place; one that was granted or is a fork's parent's is not there any more."""
        with suppress(ValueError):
            self._waiters.remove(waiter)

    def grant_first(self) -> Waiter | None:
        """Grant to the first who can be woken and return it, None when there is none."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.grant():
                return waiter
        return None

    def grant_all(self) -> None:
        """Grant to everybody."""
        place = 0
        while self._waiters:
            waiter = self._waiters.popleft()
            waiter.place = place
            place += waiter.grant()


def task_event() -> "tuple[asyncio.Event, Callable[[], object]]":
    """Return an event for the running task, and what sets it from any thread."""
    import asyncio  # loaded already wherever there is a task

    loop, event = asyncio.get_running_loop(), asyncio.Event()
    return event, lambda: loop.call_soon_threadsafe(event.set)
