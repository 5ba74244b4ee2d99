"""The transaction for asyncio tasks."""

import sys
from asyncio import current_task
from collections.abc import Awaitable
from contextlib import nullcontext, suppress
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from datakit.db.transaction_base import BeginOption, TransactionBase, out_of_time, refuse_autocommit
from datakit.resilience import RetryPolicy
from datakit.resilience.reentry import loop_head

AC = TypeVar("AC", bound=AsyncConnection | AsyncSession)


class AsyncTransaction(TransactionBase, Generic[AC]):
    """The attempts of one transaction: iterate over it and enter each with `async with`."""

    def __init__(
        self,
        bind: AsyncEngine | async_sessionmaker[Any],
        retry: RetryPolicy | None,
        idempotent: bool,
        begin_options: dict[str, BeginOption],
    ) -> None:
        super().__init__(bind, retry, idempotent, begin_options, current_task)
        self._bind = bind

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
        with self._opening() or nullcontext():
            await self._policy.acall(self._begin)
        self._opened()
        return self._subject

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame = sys._getframe(1)
        self._closed()
        try:
            failure = exc or await self._flush() or out_of_time()
            if failure is None:
                await self._commit(frame)
                return False
            undone = await self._roll_back(failure)
        finally:
            await self._subject.__aexit__(None, None, None)  # shielded from cancellation
        self._again = undone and self._attempts.again_after_body(failure, frame)
        if exc is None and not self._again:
            raise failure
        return self._again

    async def _begin(self) -> None:
        subject = self._bind.connect() if isinstance(self._bind, AsyncEngine) else self._bind()
        await subject.__aenter__()
        try:
            if self._begin_options and isinstance(subject, AsyncConnection):
                await subject.execution_options(**self._begin_options)
            self._begun = await subject.begin().start(is_ctxmanager=True)
            connection = (
                subject
                if isinstance(subject, AsyncConnection)
                else await subject.connection(execution_options=self._begin_options)
            )
            await connection.run_sync(refuse_autocommit)
        except BaseException:
            await subject.__aexit__(None, None, None)
            raise
        self._subject = cast("AC", subject)

    async def _flush(self) -> Exception | None:
        """Send what an AsyncSession holds back, so that only COMMIT is left; return what failed."""
        if isinstance(self._subject, AsyncSession):
            try:
                await self._subject.flush()
            except Exception as exc:  # noqa: BLE001 - judged like the body's own
                return exc
        return None

    async def _commit(self, frame: FrameType) -> None:
        try:
            await self._begun.__aexit__(None, None, None)
        except Exception as exc:  # noqa: BLE001 - raised again unless the body may run again
            self._attempts.after_commit(exc, frame)
            self._again = True

    async def _roll_back(self, failure: BaseException) -> bool:
        """Return whether that undid all: not when the body had ended the transaction itself."""
        whole = self._root() is self._begun.sync_transaction
        with suppress(Exception):  # the failure says more than that ROLLBACK failed as well
            await self._begun.__aexit__(type(failure), failure, None)
        return whole and isinstance(failure, Exception)

    def _root(self) -> object:
        if isinstance(self._subject, AsyncSession):
            return self._subject.sync_session.get_transaction()
        connection = self._subject.sync_connection
        return connection and connection.get_transaction()
