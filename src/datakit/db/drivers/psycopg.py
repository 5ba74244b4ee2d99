"""psycopg, sync and async."""

import math
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
from psycopg import errors, waiting
from sqlalchemy.dialects.postgresql.base import PGReadOnlyConnectionCharacteristic
from sqlalchemy.exc import PendingRollbackError

from datakit.auth import Tls
from datakit.db.drivers.limits import bounded, is_over, last_word, out_of_time, refuse_late
from datakit.db.drivers.watch import NO_WATCH, Watch, silent
from datakit.resilience.deadlines import current, deadline

if TYPE_CHECKING:
    from psycopg.abc import RV, PQGen, PQGenConn
    from sqlalchemy.engine import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import PoolProxiedConnection

    from datakit.db.endpoint import Endpoint

DEFAULT_PORT: Final = 5432
EXTRA: Final = "binary"
FACTORIES: Final = ("create_engine", "create_async_engine")

GREETING: Final = struct.pack("!ii", 8, 80_877_103)
"""The request for TLS, which any server answers with one byte. Source: PostgreSQL documentation,
"Message Formats", SSLRequest."""

_ROLE_PARAMETERS: Final = (b"in_hot_standby", b"default_transaction_read_only")

_INTERVAL: Final = 0.1
"""Seconds between two looks at Ctrl-C and at the time, psycopg's own."""

_IN_ERROR: Final = 3
"""libpq's PQTRANS_INERROR."""

_IDLE: Final = 0
"""libpq's PQTRANS_IDLE."""

_ACTIVE: Final = 1
"""libpq's PQTRANS_ACTIVE."""

_CANCEL_TIMEOUT: Final = 1.0

_FALLBACK: Final = 2
"""Seconds; the least that psycopg takes as `connect_timeout`."""


def keywords(endpoint: "Endpoint") -> dict[str, Any]:
    """Return libpq's keepalives, and no prepared statements where they would pin a session.

    Source: Aurora User Guide, "Fast failover with Aurora PostgreSQL", for the keepalives.
    """
    found: dict[str, Any] = {
        "keepalives_idle": endpoint.keepalive_idle,
        "keepalives_interval": 1,
        "keepalives_count": 5,
        "tcp_user_timeout": 1_000 * (endpoint.keepalive_idle + 5),
    }
    if endpoint.pins:
        found["prepare_threshold"] = None
    return found


def tls_of(cparams: dict[str, Any]) -> bool | None:
    """Return whether `sslmode` verifies the host; None when there is none."""
    mode = cparams.get("sslmode")
    return None if mode is None else mode == "verify-full"


def tls_keywords(tls: Tls) -> dict[str, Any]:
    """Return libpq's `ssl...` parameters."""
    return dict(tls.libpq())


def connect(
    dialect: "Dialect", cparams: dict[str, Any], ip: str, seconds: float, endpoint: "Endpoint"
) -> "DBAPIConnection":
    """Return a connection to `ip`, made within `seconds`.

    Raises:
        psycopg.Error: there is none.
    """
    params = {
        **cparams,
        "hostaddr": ip,
        "connect_timeout": max(_FALLBACK, math.ceil(seconds)),  # ours ends before it
    }
    with deadline(seconds):
        if dialect.is_async:
            made: Any = dialect.connect(async_creator_fn=_AsyncConnection.connect, **params)
        else:
            made = _Connection.connect(**params)
    driver = made.driver_connection if dialect.is_async else made
    driver._watch = Watch(ip, int(driver.info.port), GREETING, endpoint.silence)
    return cast("DBAPIConnection", made)


def takes_writes(connection: "DBAPIConnection") -> bool:
    """Return whether the server takes writes, which PostgreSQL 14 says as a session begins."""
    driver: Any = getattr(connection, "driver_connection", connection)
    said = [driver.pgconn.parameter_status(name) for name in _ROLE_PARAMETERS]
    if None not in said:
        return said == [b"off", b"off"]
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT current_setting('transaction_read_only')")
        row = cursor.fetchone()
    connection.rollback()
    return row is not None and row[0] == "off"


def unreachable(text: str) -> psycopg.OperationalError:
    """Return psycopg's error for a server that could not be reached."""
    return psycopg.OperationalError(f"connection failed: {text}")


def install(dialect: "Dialect") -> None:
    """Make `dialect` refuse a COMMIT that PostgreSQL would answer with ROLLBACK, and no error.

    That happens when the body caught a statement's error and went on. An engine has a dialect
    of its own; SQLAlchemy's commit event would slow down every checkout.

    After a read-only transaction a connection begins as the server has it by default: SQLAlchemy
    would say READ WRITE, which a standby refuses.
    """
    commit = dialect.do_commit

    def do_commit(connection: "PoolProxiedConnection") -> None:
        driver = connection.driver_connection
        if driver is not None and driver.pgconn.transaction_status == _IN_ERROR:
            raise PendingRollbackError(
                "nothing was committed: a statement failed earlier in this transaction and its "
                "error was caught; use a savepoint (begin_nested) around what may fail"
            )
        commit(connection)

    dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]
    own = {"postgresql_readonly": _ReadOnly()}
    known = type(dialect).connection_characteristics  # type: ignore[attr-defined]
    dialect.connection_characteristics = known.union(own)  # type: ignore[attr-defined]


class _ReadOnly(PGReadOnlyConnectionCharacteristic):
    def reset_characteristic(self, dialect: Any, dbapi_conn: "DBAPIConnection") -> None:
        dialect.set_readonly(dbapi_conn, None)


class _Bounded:
    """Makes each wait for the server end with the enclosing `deadline`, or when it is dead."""

    _watch = NO_WATCH

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> "PQGenConn[Any]":
        """Connect as psycopg does, with a limit below its whole seconds and its least of two."""
        steps = super()._connect_gen(conninfo)  # type: ignore[misc]
        left = deadline.remaining()
        until = math.inf if left is None else time.monotonic() + left
        ready = None
        try:
            while True:
                wait = steps.send(ready)
                ready = yield wait
                if time.monotonic() >= until:
                    steps.close()
                    raise errors.ConnectionTimeout("connection timeout expired")
        except StopIteration as done:
            return done.value

    def _start_query(self) -> "PQGen[None]":
        """Begin a transaction if there is none; psycopg calls this before each statement."""
        refuse_late()
        return super()._start_query()  # type: ignore[misc, no-any-return]

    def _exec_command(self, *args: Any, **kwargs: Any) -> "PQGen[Any]":
        """Send BEGIN, COMMIT, ROLLBACK and what server-side cursors need."""
        refuse_late()
        return super()._exec_command(*args, **kwargs)  # type: ignore[misc, no-any-return]

    def _has_begun(self) -> bool:
        """Return False where a ROLLBACK would find nothing to do: a pool asks for one each time
        that a connection is given back."""
        own: Any = self
        is_idle = own.pgconn.transaction_status == _IDLE
        return not is_idle or bool(own._pipeline or own._tpc or own._num_transactions)

    def _end_wait(self) -> None:
        """Leave a wait that ended by psycopg's own timeout to it.

        Raises:
            DeadlineExceededError: the `deadline` ended it.
        """
        if is_over():
            self._finish()  # an answer may still come: nobody must take it for another's
            raise out_of_time() from None

    def _silent(self) -> Exception:
        self._finish()
        if is_over():
            return out_of_time()
        return silent(psycopg.OperationalError(f"the server at {self._watch} is silent"))

    def _finish(self) -> None:
        self.pgconn.finish()  # type: ignore[attr-defined]


class _Connection(_Bounded, psycopg.Connection[Any]):
    def rollback(self) -> None:
        if self._has_begun():
            with last_word():
                super().rollback()

    def wait(
        self, gen: "PQGen[RV]", interval: float = _INTERVAL, timeout: float | None = None
    ) -> "RV":
        watch, socket = self._watch, self.pgconn.socket
        try:
            steps = None
            if timeout is None and current.get() is None:  # the common case, without the loop
                try:
                    return waiting.wait(gen, socket, interval=interval, timeout=watch.first)
                except errors._WaitTimeout:
                    steps = watch.steps(None)
                step, _ = next(steps)
                if not watch.is_alive(step):
                    raise self._silent()
                gen = _resumed(gen)
            for step, is_last in steps or watch.steps(timeout):
                try:
                    return waiting.wait(gen, socket, interval=interval, timeout=step)
                except errors._WaitTimeout:
                    if is_last:
                        self._end_wait()
                        raise
                    if not watch.is_alive(step):
                        raise self._silent() from None
                    gen = _resumed(gen)
        except Exception:
            raise
        except BaseException:  # psycopg itself would wait for 10 s more
            if self.pgconn.transaction_status == _ACTIVE:
                self._try_cancel(timeout=_cancel_time())
                self.pgconn.finish()
            raise
        raise AssertionError


class _AsyncConnection(_Bounded, psycopg.AsyncConnection[Any]):
    async def rollback(self) -> None:
        if self._has_begun():
            with last_word():
                await super().rollback()

    async def wait(
        self,
        gen: "PQGen[RV]",
        interval: float = _INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own
    ) -> "RV":
        watch, socket = self._watch, self.pgconn.socket
        try:
            steps = None
            if timeout is None and current.get() is None:
                try:
                    return await waiting.wait_async(
                        gen, socket, interval=interval, timeout=watch.first
                    )
                except errors._WaitTimeout:
                    steps = watch.steps(None)
                step, _ = next(steps)
                if not await watch.is_alive_async(step):
                    raise self._silent()
                gen = _resumed(gen)
            for step, is_last in steps or watch.steps(timeout):
                try:
                    return await waiting.wait_async(gen, socket, interval=interval, timeout=step)
                except errors._WaitTimeout:
                    if is_last:
                        self._end_wait()
                        raise
                    if not await watch.is_alive_async(step):
                        raise self._silent() from None
                    gen = _resumed(gen)
        except Exception:
            raise
        except BaseException:
            if self.pgconn.transaction_status == _ACTIVE:
                try:
                    await self._try_cancel(timeout=_cancel_time())
                finally:
                    self.pgconn.finish()
            raise
        raise AssertionError


def _resumed(gen: "PQGen[RV]") -> "PQGen[RV]":
    """Go on with a generator that a wait was ended for, which would be begun anew otherwise."""
    wait = waiting.WAIT_R
    try:
        while True:
            wait = gen.send((yield wait))
    except StopIteration as done:
        return cast("RV", done.value)


def _cancel_time() -> float:
    """Return the seconds for asking the server to give up a statement that was interrupted."""
    with last_word():
        return bounded(_CANCEL_TIMEOUT) or _CANCEL_TIMEOUT
