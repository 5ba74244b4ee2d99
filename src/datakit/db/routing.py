"""Sessions that read where readers are, and write where the writer is."""

from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, overload

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from datakit._clock import SYSTEM_CLOCK
from datakit.db.classification import classify
from datakit.db.positions import has_reached, position_of
from datakit.db.sync_engine import sync_engine
from datakit.db.waiting import AwaitedClock
from datakit.errors import ConfigError, DeadlineExceededError
from datakit.resilience import deadline
from datakit.resilience.verdict import LINK_LOST, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

READER_WITHIN: Final = 1.0
"""Seconds for a connection to a reader; then the writer is asked."""

AWAY_FOR: Final = 3 * READER_WITHIN
"""Seconds for which nobody waits for a reader that was not there within `READER_WITHIN`."""

LOOK_EVERY: Final = 0.005
"""Seconds between two looks at what a reader has got of the writer's."""

_UNKNOWN: Final = ""
"""The position after a commit when the writer could not be asked: no reader is known to have it."""


@overload
def routing_sessionmaker(
    *, writer: Engine, reader: Engine, read_your_writes: float | None = None, **options: Any
) -> sessionmaker[Session]: ...
@overload
def routing_sessionmaker(
    *,
    writer: AsyncEngine,
    reader: AsyncEngine,
    read_your_writes: float | None = None,
    **options: Any,
) -> async_sessionmaker[AsyncSession]: ...
def routing_sessionmaker(
    *,
    writer: Engine | AsyncEngine,
    reader: Engine | AsyncEngine,
    read_your_writes: float | None = None,
    **options: Any,
) -> sessionmaker[Session] | async_sessionmaker[AsyncSession]:
    """Return SQLAlchemy's sessionmaker, whose read-only sessions go to `reader`.

    Read-only are `transaction(Sessions, read_only=True)` and `Sessions(read_only=True)`; all others
    go to `writer`, as does a read-only one for which no reader is there within a second. A
    read-only session has one connection until it is closed.

    writer, reader: engines of the same database, both sync or both asyncio.
    read_your_writes: the seconds that a read-only session waits for a reader to have all that was
        committed in this context (thread or task) by sessions of this factory, before it goes to
        the writer; None not to wait. It costs each commit a round trip. PostgreSQL and MariaDB.
    options: SQLAlchemy's, for the sessions.

    Raises:
        ConfigError: the engines do not go together, or `read_your_writes` is negative.
    """
    if type(writer) is not type(reader) or not isinstance(writer, Engine | AsyncEngine):
        raise ConfigError(
            "routing_sessionmaker(writer=..., reader=...): two Engines or two AsyncEngines, got "
            f"{type(writer).__name__} and {type(reader).__name__}"
        )
    if read_your_writes is not None and not read_your_writes >= 0:
        raise ConfigError(f"routing_sessionmaker(read_your_writes={read_your_writes!r}): seconds")
    route = _Route(sync_engine(writer), sync_engine(reader), read_your_writes)
    if isinstance(writer, AsyncEngine):
        return async_sessionmaker(writer, sync_session_class=RoutingSession, route=route, **options)
    return sessionmaker(writer, class_=RoutingSession, route=route, **options)


class _Route:
    """Where the sessions of one factory go.

    position: how far the writer had come with the last commit in this context.
    """

    def __init__(self, writer: Engine, reader: Engine, patience: float | None) -> None:
        self.patience = patience
        self.position: ContextVar[str | None] = ContextVar("datakit_position", default=None)
        self._writer = writer
        self._reader = reader
        self._clock = AwaitedClock() if reader.dialect.is_async else SYSTEM_CLOCK
        self._away_until = 0.0

    def connect_to_reader(self) -> Connection | None:
        """Return a connection to a reader that has all that it must have; None without one."""
        if self._clock.monotonic() < self._away_until:
            return None
        try:
            with deadline(READER_WITHIN):
                connection = self._reader.connect()
        except (DBAPIError, TimeoutError, DeadlineExceededError) as exc:
            if isinstance(exc, DBAPIError) and not _is_away(exc):
                raise
            is_busy = isinstance(exc, TimeoutError) or isinstance(exc.__cause__, TimeoutError)
            if not is_busy and deadline.remaining() != 0:
                self._away_until = self._clock.monotonic() + AWAY_FOR
            return None
        try:
            if self._is_recent(connection):
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def note_commit(self) -> None:
        """Take note of how far the writer has come; a commit stands also when it cannot tell."""
        if self.patience is None:
            return
        self.position.set(_UNKNOWN)
        with suppress(Exception), deadline(READER_WITHIN):  # nothing of that undoes the commit
            self.position.set(position_of(self._writer))

    def _is_recent(self, connection: Connection) -> bool:
        position = self.position.get()
        if self.patience is None or position is None:
            return True
        if position == _UNKNOWN:
            return False
        until = self._clock.monotonic() + deadline.bound(self.patience)
        while not has_reached(connection, position):
            if self._clock.monotonic() >= until:
                return False
            self._clock.sleep(LOOK_EVERY)
        return True


class RoutingSession(Session):
    """A session that knows whether it is to write."""

    def __init__(self, *args: Any, route: _Route, read_only: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._route = route
        self._read_only = read_only
        self._reading: Connection | None = None
        self._has_committed = False
        if route.patience is not None and not read_only:
            event.listen(self, "after_commit", _note_commit)
            event.listen(self, "after_transaction_end", _ask_position)

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """Return a connection to a reader for a read-only session, else the writer's engine."""
        if self._read_only and self._reading is None:
            self._reading = self._route.connect_to_reader()
            self._read_only = self._reading is not None
        return self._reading or super().get_bind(*args, **kwargs)

    def _close_impl(self, invalidate: bool, is_reset: bool = False) -> None:
        """Close or reset the session, and close the connection that it read from."""
        super()._close_impl(invalidate, is_reset)
        if self._reading is not None:
            self._reading.close()
            self._reading = None


def opener_for_reading(factory: Any) -> "Callable[[], Any] | None":
    """Return what opens a read-only session of a routing factory; None for any other."""
    kind = factory.kw.get("sync_session_class") or getattr(factory, "class_", None)
    if isinstance(kind, type) and issubclass(kind, RoutingSession):
        return lambda: factory(read_only=True)
    return None


def _note_commit(session: RoutingSession) -> None:
    session._has_committed = True


def _ask_position(session: RoutingSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None and session._has_committed:
        session._has_committed = False
        session._route.note_commit()


def _is_away(exc: DBAPIError) -> bool:
    verdict = classify(exc)
    return verdict in LINK_LOST or verdict is Verdict.OVERLOAD
