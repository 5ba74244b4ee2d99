"""The transaction for threads."""

import sys
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from datakit.db.bind import SyncBind, opener_of
from datakit.db.transaction_base import LOOK_UP_WITHIN, TransactionBase
from datakit.resilience import deadline
from datakit.resilience.reentry import loop_head

C = TypeVar("C", bound=Connection | Session)
T = TypeVar("T")


class Transaction(TransactionBase, Generic[C]):
    """The attempts of one transaction: iterate over it and enter each with `with`."""

    _subject: C

    def __init__(self, bind: SyncBind, *options: Any) -> None:
        super().__init__(bind, current_thread, *options)
        self._new: Callable[[], C] = opener_of(bind, self._read_only)

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
        self._opening().call(self._open)
        self._opened(self._subject)
        return self._subject

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        frame, undone, lost = sys._getframe(1), False, None
        subject = self._subject
        try:
            self._closed(subject)
            failure = exc or self._prepare(subject)
            if failure is None:
                lost = self._commit()
            else:
                undone = self._roll_back(subject, failure)
        finally:
            subject.close()
        if failure is not None:
            return self._failed(failure, undone, exc, frame)
        if lost is not None:
            self._settle(lost, frame)
        elif self._is_to_purge:
            with suppress(Exception):
                self._apart(self._purge)
        return False

    def _open(self) -> None:
        subject = self._new()
        try:
            self._begin(subject)
        except BaseException:
            subject.close()
            raise
        self._subject = subject

    def _settle(self, lost: Exception, frame: FrameType) -> None:
        """Find out what became of a COMMIT that failed by `lost`."""
        if not self._can_ask(lost):
            return self._after_commit(lost, frame)
        try:
            with deadline(max(LOOK_UP_WITHIN, self._attempts.remaining)):
                committed = self._policy.call(self._apart, self._look_up)
        except Exception as exc:  # noqa: BLE001 - what is unknown matters more
            raise self._attempts.unknown(exc) from lost
        return self._after_look_up(lost, committed, frame)

    def _apart(self, work: Callable[[C], T]) -> T:
        """Return what `work` does with a connection or session of its own."""
        subject = self._new()
        try:
            return work(subject)
        finally:
            subject.close()
