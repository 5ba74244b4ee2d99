"""What the sync and the async transaction share: the loop's bookkeeping, no I/O."""

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

from sqlalchemy import Connection
from sqlalchemy.exc import InvalidRequestError

from datakit.db.attempts import Attempts
from datakit.db.bind import AsyncBind, SyncBind, engine_of
from datakit.db.policies import for_transactions, policy_of
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import RetryPolicy, deadline
from datakit.resilience.deadlines import over

BeginOption = str | bool | int | None

_open: ContextVar[tuple["TransactionBase", ...]]
_open = ContextVar("datakit_open_transactions", default=())
"""Those opened in this context or in the one that it was copied from."""


class TransactionBase:
    """One transaction: an iterator of attempts, each entered with `with`."""

    _owner: object = None
    """The thread or task that is in its block; None while nobody is."""

    def __init__(
        self,
        bind: SyncBind | AsyncBind,
        retry: RetryPolicy | None,
        idempotent: bool,
        begin_options: dict[str, BeginOption],
        caller: Callable[[], object],
    ) -> None:
        engine = engine_of(bind)
        self._key = id(engine)
        self._caller = caller
        self._begin_options = begin_options
        self._policy = for_transactions(retry) if retry else policy_of(engine)
        self._attempts = Attempts(
            self._policy,
            idempotent=idempotent,
            read_only=bool(begin_options.get("postgresql_readonly")),
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

    def _opening(self) -> deadline | None:
        """Note that the attempt begins; return the deadline for connecting, if there is one."""
        if self._entered:
            raise InvalidRequestError(
                "an attempt is entered once, in a loop: for tx in transaction(engine): "
                "with tx as conn: ..."
            )
        me = self._caller()
        if any(other._key == self._key and other._owner is me for other in _open.get()):
            raise InvalidRequestError(
                "a transaction on this engine is open already, and one inside another would "
                "commit apart from it: pass the connection down instead"
            )
        self._entered = True
        remaining = self._attempts.remaining
        return None if remaining is None else deadline(remaining)

    def _opened(self) -> None:
        self._owner = self._caller()
        _open.set((*_still_open(), self))

    def _closed(self) -> None:
        """Note the end, perhaps in another context: a generator is finalized in anybody's."""
        self._owner = None
        _open.set(_still_open())


def _still_open() -> tuple[TransactionBase, ...]:
    return tuple(other for other in _open.get() if other._owner is not None)


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
