"""The transaction for asyncio tasks."""

import sys
from asyncio import current_task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from datakit.db.bind import AsyncBind, opener_of
from datakit.db.transaction_base import LOOK_UP_WITHIN, TransactionBase
from datakit.resilience import deadline
from datakit.resilience.reentry import loop_head

AC = TypeVar("AC", bound=AsyncConnection | AsyncSession)
T = TypeVar("T")


class AsyncTransaction(TransactionBase, Generic[AC]):
    """The attempts of one transaction: iterate over it and enter each with `async with`."""

    _subject: AC

    def __init__(self, bind: AsyncBind, *options: Any) -> None:
        super().__init__(bind, current_task, *options)
        self._new: Callable[[], AC] = opener_of(bind, self._read_only)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Self]:
        self._attempts.head = loop_head(sys._getframe(1))
        return self._next()

    async def _next(self) -> Self:
        if not self._advance():
            raise StopAsyncIteration
        if self._attempts.delay:
            await self._attempts.clock.asleep(self._attempts.delay)
        return self

    async def __aenter__(self) -> AC:
        await self._opening().acall(self._open)
        self._opened(self._subject)
        return self._subject

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame, undone, lost = sys._getframe(1), False, None
        subject = self._subject
        self._closed(subject)
        try:
            failure = exc or await greenlet_spawn(self._prepare, _plain(subject))
            if failure is None:
                lost = await greenlet_spawn(self._commit)
            else:
                undone = await greenlet_spawn(self._roll_back, _plain(subject), failure)
        finally:
            await subject.__aexit__(None, None, None)  # shielded from cancellation
        if failure is not None:
            return self._failed(failure, undone, exc, frame)
        if lost is not None:
            await self._settle(lost, frame)
        elif self._is_to_purge:
            with suppress(Exception):
                await self._apart(self._purge)
        return False

    async def _open(self) -> None:
        subject: AC = self._new()
        await subject.__aenter__()
        try:
            await greenlet_spawn(self._begin, _plain(subject))
        except BaseException:
            await subject.__aexit__(None, None, None)
            raise
        self._subject = subject

    async def _settle(self, lost: Exception, frame: FrameType) -> None:
        """Find out what became of a COMMIT that failed by `lost`."""
        if not self._can_ask(lost):
            return self._after_commit(lost, frame)
        try:
            with deadline(max(LOOK_UP_WITHIN, self._attempts.remaining)):
                committed = await self._policy.acall(self._apart, self._look_up)
        except Exception as exc:  # noqa: BLE001 - what is unknown matters more
            raise self._attempts.unknown(exc) from lost
        return self._after_look_up(lost, committed, frame)

    async def _apart(self, work: Callable[[Connection | Session], T]) -> T:
        """Return what `work` does with a connection or session of its own."""
        subject = self._new()
        await subject.__aenter__()
        try:
            return await greenlet_spawn(work, _plain(subject))
        finally:
            await subject.__aexit__(None, None, None)


def _plain(subject: AsyncConnection | AsyncSession) -> Connection | Session:
    """Return the sync one behind `subject`."""
    if isinstance(subject, AsyncSession):
        return subject.sync_session
    connection = subject.sync_connection
    assert connection is not None
    return connection
