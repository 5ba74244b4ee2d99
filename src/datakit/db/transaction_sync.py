"""The transaction for threads."""

import sys
from contextlib import nullcontext, suppress
from threading import current_thread
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker

from datakit.db.transaction_base import BeginOption, TransactionBase, out_of_time, refuse_autocommit
from datakit.resilience import RetryPolicy
from datakit.resilience.reentry import loop_head

C = TypeVar("C", bound=Connection | Session)


class Transaction(TransactionBase, Generic[C]):
    """The attempts of one transaction: iterate over it and enter each with `with`."""

    def __init__(
        self,
        bind: Engine | sessionmaker[Any],
        retry: RetryPolicy | None,
        idempotent: bool,
        begin_options: dict[str, BeginOption],
    ) -> None:
        super().__init__(bind, retry, idempotent, begin_options, current_thread)
        self._bind = bind

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        self._attempts.head = loop_head(sys._getframe(1))
        if not self._advance():
            raise StopIteration
        if self._attempts.delay:
            self._attempts.clock.sleep(self._attempts.delay)
        return self

    def __enter__(self) -> C:
        with self._opening() or nullcontext():
            self._policy.call(self._begin)
        self._opened()
        return self._subject

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame = sys._getframe(1)
        self._closed()
        try:
            failure = exc or self._flush() or out_of_time()
            if failure is None:
                self._commit(frame)
                return False
            undone = self._roll_back(failure)
        finally:
            self._subject.close()
        self._again = undone and self._attempts.again_after_body(failure, frame)
        if exc is None and not self._again:
            raise failure
        return self._again

    def _begin(self) -> None:
        subject = self._bind.connect() if isinstance(self._bind, Engine) else self._bind()
        try:
            if self._begin_options and isinstance(subject, Connection):
                subject = subject.execution_options(**self._begin_options)
            self._begun = subject.begin()
            self._begun.__enter__()
            refuse_autocommit(
                subject
                if isinstance(subject, Connection)
                else subject.connection(execution_options=self._begin_options)
            )
        except BaseException:
            subject.close()
            raise
        self._subject = cast("C", subject)

    def _flush(self) -> Exception | None:
        """Send what a Session holds back, so that only COMMIT is left; return what failed."""
        if isinstance(self._subject, Session):
            try:
                self._subject.flush()
            except Exception as exc:  # noqa: BLE001 - judged like the body's own
                return exc
        return None

    def _commit(self, frame: FrameType) -> None:
        try:
            self._begun.__exit__(None, None, None)
        except Exception as exc:  # noqa: BLE001 - raised again unless the body may run again
            self._attempts.after_commit(exc, frame)
            self._again = True

    def _roll_back(self, failure: BaseException) -> bool:
        """Return whether that undid all: not when the body had ended the transaction itself."""
        whole = self._subject.get_transaction() is self._begun
        with suppress(Exception):  # the failure says more than that ROLLBACK failed as well
            self._begun.__exit__(type(failure), failure, None)
        return whole and isinstance(failure, Exception)
