"""From a host name to a connection: resolved once, tried until the deadline, checked at checkout.

Listeners on an engine's `do_connect` and `checkout` events; those of an AsyncEngine sit on its
`sync_engine` and wait through SQLAlchemy's greenlet.
"""

import math
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError, PendingRollbackError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from datakit import events
from datakit._clock import Clock
from datakit.db.classification import classify
from datakit.db.policies import for_connecting
from datakit.dns import Address
from datakit.errors import DnsError, NameNotFoundError
from datakit.resilience import RetryPolicy, Verdict, deadline

CONNECT_TIMEOUT = 5.0
"""Seconds for one attempt, so that a dead address costs less than a failover takes."""

MIN_CONNECT_TIMEOUT = 2
"""Seconds; libpq and psycopg take no less."""

_IN_ERROR = 3
"""libpq's PQTRANS_INERROR."""

_ADDRESS = "datakit_address"
_CHECKED = "datakit_checked"


class Names(Protocol):
    """What the connect path asks of a resolver, blocking."""

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to."""
        ...

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        ...

    def report_failure(self, name: str, ip: str) -> None:
        """Take note that connecting to `ip` failed."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where an engine connects to."""

    host: str
    port: int


class Connector:
    """Makes and checks the connections of one engine."""

    def __init__(self, target: Target, names: Names, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = for_connecting(policy, target.host, self._verdict, clock)
        self._target = target
        self._names = names
        self._was_connected = False

    def install(self, engine: Engine) -> None:
        """Listen to `engine`'s events."""
        event.listen(engine, "do_connect", self._do_connect)
        event.listen(engine, "checkout", self._checkout)
        event.listen(engine, "handle_error", self._handle_error)
        _guard_commit(engine.dialect)

    def _do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        cargs: tuple[Any, ...],
        cparams: dict[str, Any],
    ) -> DBAPIConnection:
        attempts = 0

        def attempt() -> DBAPIConnection:
            nonlocal attempts
            addresses = self._names.addresses(self._target.host, self._target.port)
            ip = addresses[attempts % len(addresses)].ip
            attempts += 1
            try:
                connection = dialect.connect(*cargs, **connect_parameters(cparams, ip))
            except dialect.loaded_dbapi.Error:
                self._names.report_failure(self._target.host, ip)
                raise
            record.info[_ADDRESS] = ip
            self._was_connected = True
            return connection

        try:
            return self._policy.call(attempt)
        except DnsError as exc:
            error = dialect.loaded_dbapi.OperationalError(f"connection failed: {exc}")
            for note in getattr(exc, "__notes__", ()):
                error.add_note(note)
            raise error from exc

    def _verdict(self, exc: BaseException) -> Verdict:
        if isinstance(exc, NameNotFoundError) and not self._was_connected:
            return Verdict.FATAL  # a misspelt host: say so at once
        return connect_verdict(exc)

    def _checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        """Replace a connection whose name points elsewhere now.

        One that was just made is taken as it is: to resolve again would lose a race against a
        flapping record.
        """
        info = record.info
        if _CHECKED not in info:
            info[_CHECKED] = True
            return
        ip = info.get(_ADDRESS)
        if ip is None or self._names.is_current(self._target.host, ip):
            return
        events.emit(events.ConnectionMoved, self._target.host, ip)
        raise DisconnectionError(f"{self._target.host} is no longer at {ip}")

    def _handle_error(self, context: ExceptionContext) -> None:
        """Drop a connection to a server that takes no writes any more, and ask where to go."""
        connection = context.connection
        if connection is None or connection.invalidated or connection.closed:
            return
        verdict = classify(context.original_exception)
        if verdict is Verdict.WRITER_MOVED:
            if connection.get_execution_options().get("postgresql_readonly"):
                return
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False
        elif not context.is_disconnect:
            return
        ip = connection.info.get(_ADDRESS)
        if ip is not None:
            self._names.report_failure(self._target.host, ip)


def _guard_commit(dialect: Dialect) -> None:
    """Make `dialect` refuse a COMMIT that PostgreSQL would answer with ROLLBACK, and no error.

    That happens when the body caught a statement's error and went on. An engine has a dialect
    of its own; SQLAlchemy's commit event would slow down every checkout.
    """
    commit = dialect.do_commit

    def do_commit(connection: PoolProxiedConnection) -> None:
        driver = connection.driver_connection
        if driver is not None and driver.pgconn.transaction_status == _IN_ERROR:
            raise PendingRollbackError(
                "nothing was committed: a statement failed earlier in this transaction and its "
                "error was caught; use a savepoint (begin_nested) around what may fail"
            )
        commit(connection)

    dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]


def connect_verdict(exc: BaseException) -> Verdict:
    """Return the verdict of a failure to connect, where nothing can have executed.

    Refused credentials are final: nothing here could bring others.
    """
    verdict = classify(exc)
    if verdict is Verdict.DISCONNECT:
        return Verdict.NOT_SENT
    return Verdict.FATAL if verdict is Verdict.AUTH else verdict


def connect_parameters(cparams: dict[str, Any], ip: str) -> dict[str, Any]:
    """Return psycopg's parameters to connect to `ip`; `host` stays, since TLS checks it.

    TLS is verified for anything that is not loopback, unless the URL says otherwise.

    Raises:
        DeadlineExceededError: nothing is left of the enclosing `deadline`.
    """
    seconds = deadline.bound(float(cparams.get("connect_timeout", CONNECT_TIMEOUT)))
    params = {
        **cparams,
        "hostaddr": ip,
        "connect_timeout": max(MIN_CONNECT_TIMEOUT, math.ceil(seconds)),
    }
    if "sslmode" not in params and not ip_address(ip).is_loopback:
        params["sslmode"] = "verify-full"
        params.setdefault("sslrootcert", "system")
    return params
