"""What the sync and the async transaction share: the loop's bookkeeping and each step's work.

The steps take SQLAlchemy's sync connection or session; the asyncio form runs them through
SQLAlchemy's greenlet.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType
from typing import Any, Final
from weakref import ref

from sqlalchemy import Connection
from sqlalchemy.engine import Transaction as ConnectionTransaction
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction

from datakit._clock import uniform
from datakit.db import exactly_once as commits
from datakit.db.attempts import Attempts
from datakit.db.begin import BeginOption, execution_options, is_read_only
from datakit.db.bind import AsyncBind, SyncBind, engine_of, registry_of
from datakit.db.policies import for_transactions, policy_of
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import RetryPolicy, deadline
from datakit.resilience.deadlines import over

_LEAST: Final = 0.001
"""Seconds for connecting once more when no time is left."""

LOOK_UP_WITHIN: Final = 5.0
"""Seconds for the question what became of a COMMIT, also when a long body has used up the policy's:
it does not run the body again."""

Begun = ConnectionTransaction | SessionTransaction

_open: ContextVar[tuple["ref[TransactionBase]", ...]]
_open = ContextVar("datakit_open_transactions", default=())
"""Those opened in this context or in the one that it was copied from. One that Ctrl-C kept from its
end gives its connection back as it is collected."""
os.register_at_fork(after_in_child=lambda: _open.set(()))  # they are the parent's


class TransactionBase:
    """One transaction: an iterator of attempts, each entered with `with`."""

    _owner: object = None
    """The thread or task that is in its block; None while nobody is."""

    _table: int | None = None
    """Where the token was written."""

    _is_divided = False
    """Whether the COMMIT is several, of which one may fail after another."""

    def __init__(
        self,
        bind: SyncBind | AsyncBind,
        caller: Callable[[], object],
        begin_options: dict[str, BeginOption],
        retry: RetryPolicy | None,
        idempotent: bool,
        exactly_once: bool,
    ) -> None:
        self._read_only = read_only = is_read_only(begin_options)
        if exactly_once and (idempotent or read_only):
            other = "idempotent=True" if idempotent else "a read-only transaction"
            raise ConfigError(f"exactly_once=True does not go with {other}: drop one of them")
        engine = engine_of(bind)
        self._key = id(engine)
        self._registry = registry_of(bind)
        self._caller = caller
        self._begin_options = begin_options
        self._policy = for_transactions(retry) if retry else policy_of(engine)
        self._attempts = Attempts(
            self._policy, idempotent=idempotent, exactly_once=exactly_once, read_only=read_only
        )
        self._again = True
        self._entered = True

    def _advance(self) -> bool:
        """Return whether the body runs (again)."""
        if not self._entered:
            raise InvalidRequestError(
                "the attempt was not entered: write `with tx as conn:` inside the loop"
            )
        again, self._again, self._entered = self._again, False, False
        return again

    def _opening(self) -> RetryPolicy:
        """Note that the attempt begins; return the policy for connecting, in the time left."""
        if self._entered:
            raise InvalidRequestError(
                "an attempt is entered once, in a loop: for tx in transaction(engine): "
                "with tx as conn: ..."
            )
        me = self._caller()
        opened = filter(None, (each() for each in _open.get()))
        if any(other._key == self._key and other._owner is me for other in opened):
            raise InvalidRequestError(
                "a transaction on this engine is open already, and one inside another would "
                "commit apart from it: pass the connection down instead"
            )
        scoped = None if self._registry is None or not self._registry.has() else self._registry()
        if scoped is not None and scoped.in_transaction():
            raise InvalidRequestError(
                "the scoped session has begun a transaction of its own, which would stay open: "
                "commit() or rollback() it before"
            )
        self._entered = True
        if not self._attempts.has_failed:
            return self._policy
        return replace(self._policy, deadline=max(_LEAST, self._attempts.remaining))

    def _opened(self, subject: Any) -> None:
        self._owner = self._caller()
        _open.set((*_still_open(), ref(self)))
        if self._registry is not None:
            self._registry.set(subject)

    def _closed(self, subject: Any) -> None:
        """Note the end, perhaps in another context: a generator is finalized in anybody's."""
        self._owner = None
        _open.set(_still_open())
        if self._registry is not None and self._registry.has() and self._registry() is subject:
            self._registry.clear()

    def _begin(self, subject: Connection | Session) -> None:
        """Begin on `subject` with the options asked for."""
        options, statement = dict[str, BeginOption](), None
        if self._begin_options:
            options, statement = execution_options(self._begin_options, _dialect_of(subject))
        if isinstance(subject, Connection):
            connection = subject.execution_options(**options) if options else subject
            self._begun: Begun = subject.begin()
        else:
            self._begun = subject.begin()
            connection = subject.connection(execution_options=options)
        self._begun.__enter__()
        if statement is not None:
            connection.exec_driver_sql(statement)
        refuse_autocommit(connection)

    def _prepare(self, subject: Connection | Session) -> Exception | None:
        """Send all that is left before COMMIT; return what failed.

        That is what a Session holds back, and the token.
        """
        try:
            if isinstance(subject, Session):
                subject.flush()
                self._is_divided = _is_divided(subject)
            if self._attempts.token is not None:
                self._table = commits.write(_connection_of(subject), self._attempts.token)
        except Exception as exc:  # noqa: BLE001 - judged like the body's own
            return exc
        return out_of_time()

    def _commit(self) -> Exception | None:
        """Commit; return what failed."""
        try:
            self._begun.__exit__(None, None, None)
        except Exception as exc:  # noqa: BLE001 - raised again unless the body may run again
            return exc
        return None

    def _roll_back(self, subject: Connection | Session, failure: BaseException) -> bool:
        """Return whether that undid all: not when the body had ended the transaction itself."""
        whole = subject.get_transaction() is self._begun
        with suppress(Exception):  # the failure says more than that ROLLBACK failed as well
            self._begun.__exit__(type(failure), failure, None)
        return whole and isinstance(failure, Exception)

    def _look_up(self, subject: Connection | Session) -> bool:
        """Return whether the transaction's token is in the database; `subject` is a new one."""
        assert self._attempts.token is not None
        return commits.look_up(_connection_of(subject), self._attempts.token, self._table)

    def _purge(self, subject: Connection | Session) -> None:
        """Remove old tokens after a COMMIT; `subject` is a new one."""
        commits.remove_old(_connection_of(subject), commits.RETENTION)
        subject.commit()

    def _failed(
        self, failure: BaseException, undone: bool, exc: BaseException | None, frame: FrameType
    ) -> bool:
        """Return whether the body runs again after `failure`, which came before COMMIT.

        exc: the failure, if it came from the body.

        Raises:
            BaseException: the failure, when it came after the body and nothing runs again.
        """
        self._again = undone and self._attempts.again_after_body(failure, frame)
        if exc is None and not self._again:
            raise failure
        return self._again

    def _can_ask(self, lost: Exception) -> bool:
        """Return whether the database knows what became of a COMMIT that failed by `lost`."""
        known = self._attempts.token is not None and not self._is_divided
        return known and self._attempts.is_in_doubt(lost)

    def _after_commit(self, lost: Exception, frame: FrameType) -> None:
        self._attempts.after_commit(lost, frame, divided=self._is_divided)
        self._again = True

    def _after_look_up(self, lost: Exception, committed: bool, frame: FrameType) -> None:
        self._attempts.after_look_up(lost, committed, frame)
        self._again = not committed

    @property
    def _is_to_purge(self) -> bool:
        """Whether it is this transaction's turn to do so."""
        return self._attempts.token is not None and uniform(0.0, 1.0) < commits.PURGE_CHANCE


def _dialect_of(subject: Connection | Session) -> str:
    bind = subject if isinstance(subject, Connection) else subject.get_bind()
    return bind.dialect.name


def _is_divided(session: Session) -> bool:
    """Return whether `session` has transactions on several databases, without two-phase commit."""
    transaction = session.get_transaction()
    if transaction is None or session.twophase:
        return False
    return len({id(joined[0]) for joined in transaction._connections.values()}) > 1


def _connection_of(subject: Connection | Session) -> Connection:
    return subject if isinstance(subject, Connection) else subject.connection()


def _still_open() -> tuple["ref[TransactionBase]", ...]:
    return tuple(each for each in _open.get() if (other := each()) and other._owner is not None)


def out_of_time() -> DeadlineExceededError | None:
    """Return an error when nothing is left of the `deadline`: there is no time to see a COMMIT."""
    return over("the transaction was rolled back") if deadline.remaining() == 0 else None


def refuse_autocommit(connection: Connection) -> None:
    """Do nothing when `connection` opens transactions.

    Raises:
        ConfigError: it is in autocommit, where each statement is committed at once.
    """
    driver = connection.connection.dbapi_connection
    with suppress(NotImplementedError):  # SQLAlchemy cannot tell for every driver
        if driver is not None and connection.dialect.detect_autocommit_setting(driver):
            raise ConfigError(
                "transaction() on a connection in AUTOCOMMIT: each statement is committed at "
                "once, so that nothing could be run again safely; use another isolation level"
            )
