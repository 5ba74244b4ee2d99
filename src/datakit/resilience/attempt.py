"""The attempts of a block of code, entered one after the other in the caller's own loop."""

import sys
from collections.abc import Awaitable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import Until, enter, leave
from datakit.resilience.reentry import LoopHead, comes_round, loop_head
from datakit.resilience.retry import RetryLoop

if TYPE_CHECKING:
    from datakit.resilience.policy import RetryPolicy


class Attempt:
    """One attempt at a block of code: `with attempt:` around it, inside the loop."""

    def __init__(self, policy: "RetryPolicy") -> None:
        self._policy = policy
        self._started = policy.clock.monotonic()
        self._loop: RetryLoop | None = None
        self._head: LoopHead | None = None
        self._block: Until | None = None
        self._again = True
        self._entered = True
        self._delay = 0.0

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._loop.attempts if self._loop else 1

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(
                "an attempt is entered once, in a loop: for attempt in policy: with attempt: ..."
            )
        self._entered = True
        now = self._policy.clock.monotonic()
        left = self._started + self._policy.deadline - now
        try:
            self._block = enter(now, left, self._policy.clock)
        except DeadlineExceededError as exc:
            if self._loop is not None:
                self._loop.failed(exc)  # raises what failed before
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._block is not None:
            leave(self._block)
        if exc is None:
            self._succeed()
        elif isinstance(exc, Exception):
            self._again = self._may_run_again(exc, sys._getframe(1))
        return self._again

    def _succeed(self) -> None:
        if self._loop is not None:
            self._loop.succeeded()
        else:
            self._policy.budget.give(self._policy.budget.success)

    def _may_run_again(self, exc: Exception, frame: FrameType) -> bool:
        if not comes_round(frame, self._head):
            with suppress(Exception):  # a frozen exception takes no notes
                exc.add_note(
                    "datakit: not tried again, since the code after `with attempt` leaves the "
                    "loop, or the block is not in it; return or break at the end of the block"
                )
            return False
        operation = frame.f_code.co_qualname
        self._loop = self._loop or RetryLoop(self._policy, self._started, operation)
        try:
            self._delay = self._loop.failed(exc)
        except BaseException as final:
            if final is exc:
                return False
            raise
        return True

    def _advance(self) -> bool:
        """Return whether there is another attempt to enter, after `_delay` seconds."""
        if not self._entered:
            raise RuntimeError("the attempt was not entered: write `with attempt:` in the loop")
        again, self._again, self._entered = self._again, False, False
        return again


class Attempts(Attempt):
    """The attempts of a thread: iterate, and enter each."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        self._head = loop_head(sys._getframe(1))
        if not self._advance():
            raise StopIteration
        if self._loop is not None:
            self._loop.clock.sleep(self._delay)
            self._loop.resume()
        return self


class AsyncAttempts(Attempt):
    """The attempts of a task: iterate with `async for`, and enter each with a plain `with`."""

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Attempt]:
        self._head = loop_head(sys._getframe(1))
        return self._next()

    async def _next(self) -> Attempt:
        if not self._advance():
            raise StopAsyncIteration
        if self._loop is not None:
            await self._loop.clock.asleep(self._delay)
            self._loop.resume()
        return self
