"""A time limit for a task, which a reply that came in time keeps to, however late it is read."""

import asyncio
from types import TracebackType
from typing import Final, Self

ROUNDS: Final = 2
"""Of the event loop, after the time is over, in which what has come by then is read. One is enough
for asyncio; uvloop sees to its timers before it reads."""


class Limit:
    """Ends the block with TimeoutError at a second of the loop's clock.

    `asyncio.timeout`, whose rules for cancelling it follows, ends a block also when the loop was
    busy until then, and the reply is there.
    """

    __slots__ = ("_cancelling", "_loop", "_task", "_timer", "_when", "is_over")

    def __init__(self, when: float) -> None:
        self.is_over = False
        """Whether the block was ended."""
        self._when = when
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None

    def reschedule(self, when: float | None) -> None:
        """End the block at another second; None for never."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = self._loop.call_at(when, self._end, ROUNDS)

    def _end(self, rounds: int) -> None:
        if rounds:
            self._timer = self._loop.call_soon(self._end, rounds - 1)
        else:
            self.is_over = True
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._loop.call_at(self._when, self._end, ROUNDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.is_over:
            is_ours = self._task.uncancel() <= self._cancelling
            if is_ours and kind is asyncio.CancelledError:
                raise TimeoutError from error
