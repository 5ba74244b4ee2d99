"""A time limit for a task, which a reply that came in time keeps to, however late it is read."""

import asyncio
from types import TracebackType
from typing import Final, Self

ROUNDS: Final = 2
"""Of the event loop, after the time is over, in which what has come by then is read. One is enough
for asyncio; uvloop sees to its timers before it reads."""


class Limit:
    """Ends the block with TimeoutError at a second of the loop's clock.

    `asyncio.timeout` ends it also when the loop was busy until then, and the reply is there.
    """

    def __init__(self, when: float) -> None:
        self._when = when
        self._timeout = asyncio.timeout(None)
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
            self._timeout.reschedule(self._loop.time())

    def expired(self) -> bool:
        """Return whether the block was ended."""
        return self._timeout.expired()

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self.reschedule(self._when)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reschedule(None)
        await self._timeout.__aexit__(kind, error, traceback)
