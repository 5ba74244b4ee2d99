"""What the sync and the async transaction share: the loop's bookkeeping, no I/O."""

from contextvars import ContextVar

from sqlalchemy.exc import InvalidRequestError

from datakit.db.attempts import Attempts
from datakit.db.bind import AsyncBind, SyncBind, engine_of, policy_of
from datakit.resilience import RetryPolicy, deadline

BeginOption = str | bool | int | None

_open: ContextVar[frozenset[int]] = ContextVar("datakit_open_transactions", default=frozenset())


class TransactionBase:
    """One transaction: an iterator of attempts, each entered with `with`."""

    def __init__(
        self,
        bind: SyncBind | AsyncBind,
        retry: RetryPolicy | None,
        idempotent: bool,
        begin_options: dict[str, BeginOption],
    ) -> None:
        engine = engine_of(bind)
        self._key = id(engine)
        self._begin_options = begin_options
        self._policy = retry or policy_of(engine)
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
        if self._key in _open.get():
            raise InvalidRequestError(
                "a transaction on this engine is open already, and one inside another would "
                "commit apart from it: pass the connection down instead"
            )
        self._entered = True
        remaining = self._attempts.remaining
        return None if remaining is None else deadline(remaining)

    def _opened(self) -> None:
        _open.set(_open.get() | {self._key})

    def _closed(self) -> None:
        _open.set(_open.get() - {self._key})
