"""From a host name to a connection: resolved once, tried until the deadline, looked at when taken.

Listeners on an engine's events; those of an AsyncEngine sit on its `sync_engine` and wait through
SQLAlchemy's greenlet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar
from weakref import ref

from cachebox import LRUCache
from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from datakit import events
from datakit._clock import Clock
from datakit.auth import Login, PasswordAuth, Tls
from datakit.auth.masked import Masked, without_frames
from datakit.db.checkout import MAX_ADDRESSES, PEER, Departures, Look, Peer
from datakit.db.classification import classify
from datakit.db.drivers import Driver
from datakit.db.endpoint import Endpoint
from datakit.db.policies import for_connecting
from datakit.db.pool import LookingPool
from datakit.dns import Address
from datakit.errors import (
    ConfigError,
    DatakitError,
    DeadlineExceededError,
    DnsError,
    NameNotFoundError,
)
from datakit.resilience import Gate, RetryPolicy, Verdict, deadline
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.verdict import LINK_LOST

T = TypeVar("T")

PROBE_TIMEOUT = 2.0
"""Seconds that a pooled connection has to show that it lives."""


class Waits(Protocol):
    """What the connect path waits for, blocking or through SQLAlchemy's greenlet."""

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to."""
        ...

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        ...

    def report_failure(self, name: str, ip: str) -> None:
        """Take note that connecting to `ip` failed."""
        ...

    def first_to_answer(self, name: str, addresses: Sequence[Address]) -> str:
        """Return the first of the addresses that accepts a connection."""
        ...

    def login(self, auth: PasswordAuth, login: Login) -> Login:
        """Return `login` with its password."""
        ...

    def through(self, gate: Gate, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, begun when the gate lets it."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where an engine connects to, and how.

    tls: None for the default, verified off loopback.
    """

    host: str
    port: int
    user: str
    endpoint: Endpoint
    driver: Driver
    tls: Tls | None = None
    auth: PasswordAuth | None = field(default=None, repr=False)


class Connector:
    """Makes and looks at the connections of one engine."""

    def __init__(self, target: Target, waits: Waits, policy: RetryPolicy, clock: Clock) -> None:
        self.target = target
        self._policy = for_connecting(policy, target.host, self._verdict, clock)
        self._waits = waits
        self._clock = clock
        self._gate = Gate(
            base=policy.base,
            cap=policy.cap,
            max_wait=self._policy.deadline,
            probe_time=target.endpoint.connect_timeout + 1.0,
            down=lambda exc: self._verdict(exc) in LINK_LOST,
            name=target.host,
        )
        self._keywords = target.driver.keywords(target.endpoint)
        self._tls: dict[str, Any] | None = None
        self._recycle = target.endpoint.recycle
        self._proven: LRUCache[str, None] = LRUCache(MAX_ADDRESSES)
        """Addresses that were connected to and have not failed since: one of several is not tried
        on the chance that it is dead."""
        self._departures = Departures()
        self._was_connected = False
        self._last_failure = ""

    @property
    def recycle(self) -> float:
        """Seconds after which a connection is replaced when it is taken."""
        engine = self._engine()
        own = math.inf if engine is None else engine.pool._recycle
        return own if self._recycle == math.inf else self._recycle

    @property
    def deadline(self) -> float:
        """Seconds for connecting in all."""
        return self._policy.deadline

    def install(self, engine: Engine) -> None:
        """Listen to `engine`'s events."""
        self._engine = ref(engine)
        if engine.pool._recycle > -1:
            self._recycle = math.inf  # SQLAlchemy's own, which the user asked for, is at work
        event.listen(engine, "do_connect", self._do_connect)
        if isinstance(engine.pool, LookingPool):
            engine.pool.look = self._look
        else:
            event.listen(engine, "checkout", self._checkout)
        event.listen(engine, "handle_error", self._handle_error)
        self.target.driver.install(engine.dialect)
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Leave the parent's connections to it; called in a forked child."""
        engine = self._engine()
        if engine is not None:
            engine.dispose(close=False)

    def _do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        cargs: list[Any],
        cparams: dict[str, Any],
    ) -> DBAPIConnection:
        for listener in self._later_listeners(dialect):
            connection = listener(dialect, record, cargs, cparams)
            if connection is not None:
                return connection
        mask_password(cparams)
        try:
            connection, ip = self._policy.call(
                self._waits.through, self._gate, lambda: self._attempt(dialect, cparams)
            )
        except (DnsError, DeadlineExceededError) as exc:
            last = f"; the last attempt failed: {self._last_failure}" if self._last_failure else ""
            told = self.target.driver.unreachable(f"{exc}{last}")
            for note in getattr(exc, "__notes__", ()):
                told.add_note(note)
            raise told from exc
        now, wall = self._clock.monotonic(), self._clock.wall()
        record.info[PEER] = Peer(ip, now, wall)
        self._was_connected = True
        self._proven[ip] = None
        self._departures.forget(ip)
        return connection

    def _later_listeners(self, dialect: Dialect) -> Iterator[Callable[..., DBAPIConnection | None]]:
        """Return the user's own, which SQLAlchemy leaves out when ours returns a connection."""
        listeners = iter(dialect.dispatch.do_connect)
        for listener in listeners:
            if listener == self._do_connect:
                return listeners
        return iter(())

    def _attempt(self, dialect: Dialect, cparams: dict[str, Any]) -> tuple[DBAPIConnection, str]:
        target = self.target
        ip = self._address()
        own = cparams.get("connect_timeout") or target.endpoint.connect_timeout
        seconds = deadline.bound(float(own))
        try:
            params = self._parameters(cparams, ip)
            return self._logged_in(dialect, params, ip, seconds), ip
        except dialect.loaded_dbapi.Error as exc:
            self._last_failure = str(exc)
            if self._verdict(exc) in LINK_LOST:
                self._failed(ip)
            raise without_frames(exc) from exc.__cause__

    def _address(self) -> str:
        host = self.target.host
        addresses = self._waits.addresses(host, self.target.port)
        ip = addresses[0].ip
        if len(addresses) == 1 or ip in self._proven:
            return ip
        try:
            with deadline(self.target.endpoint.connect_timeout):
                return self._waits.first_to_answer(host, addresses)
        except (OSError, DeadlineExceededError) as exc:
            self._last_failure = str(exc)
            raise self.target.driver.unreachable(str(exc)) from exc

    def _failed(self, ip: str) -> None:
        self._proven.pop(ip, None)
        self._waits.report_failure(self.target.host, ip)

    def _logged_in(
        self, dialect: Dialect, params: dict[str, Any], ip: str, seconds: float
    ) -> DBAPIConnection:
        """Return a connection, with another password if the first one is refused."""
        target, refusals = self.target, 0
        asked = Login(target.host, target.port, target.user)
        while True:
            login = asked
            if target.auth is not None:
                login = self._waits.login(target.auth, asked)
                password = None if login.password is None else Masked(login.password)
                params = {**params, "user": login.user, "password": password}
            try:
                return self._driven(dialect, params, ip, seconds)
            except dialect.loaded_dbapi.Error as exc:
                if target.auth is None or classify(exc) is not Verdict.AUTH:
                    raise
                refusals += 1
                pause = target.auth.refused(login, refusals)
                left = deadline.remaining()
                if pause is None or (left is not None and pause >= left):
                    raise
            if pause:
                self._clock.sleep(pause)

    def _driven(
        self, dialect: Dialect, params: dict[str, Any], ip: str, seconds: float
    ) -> DBAPIConnection:
        """Return the driver's connection; what ends the attempt leaves the driver's frames here.

        They hold the password, those of an interrupted attempt as well.
        """
        try:
            return self.target.driver.connect(dialect, params, ip, seconds, self.target.endpoint)
        except BaseException as exc:
            without_frames(exc)
            raise

    def _parameters(self, cparams: dict[str, Any], ip: str) -> dict[str, Any]:
        """Return the driver's keywords: the endpoint's, TLS's, and over them the user's."""
        target = self.target
        spoken = check_tls(target, cparams)
        needed = target.tls or (target.auth is not None and target.auth.needs_verified_tls)
        if spoken or not (needed or not ip_address(ip).is_loopback):
            return {**self._keywords, **cparams}
        if self._tls is None:
            self._tls = target.driver.tls_keywords(target.tls or Tls())
        return {**self._keywords, **cparams, **self._tls}

    def _verdict(self, exc: BaseException) -> Verdict:
        if isinstance(exc, NameNotFoundError) and not self._was_connected:
            return Verdict.FATAL  # a misspelt host: say so at once
        return connect_verdict(exc)

    def _checkout(
        self,
        connection: DBAPIConnection,
        entry: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        """Look at a connection of a pool that does not do so itself."""
        peer: Peer | None = entry.info.get(PEER)
        if peer is not None and not peer.is_fresh(self._clock.monotonic(), self._clock.wall()):
            self._look(entry, peer)

    def _look(self, entry: ConnectionPoolEntry, peer: Peer) -> None:
        """Do nothing where a connection may be handed out.

        Raises:
            DisconnectionError: it is dead, too old, or its name points elsewhere now.
        """
        host, ip, endpoint = self.target.host, peer.ip, self.target.endpoint
        now, wall = self._clock.monotonic(), self._clock.wall()
        look = peer.look(now, wall, recycle=self._recycle, probe_after=endpoint.probe_after)
        if look is Look.DISCARD:
            raise DisconnectionError(f"the connection to {ip} is older than {self._recycle:g} s")
        if look is Look.PROBE and entry.dbapi_connection is not None:
            self._probe(entry.dbapi_connection, ip)
        is_current = self._waits.is_current(host, ip)
        if self._departures.look(ip, now, is_current=is_current) is Look.DISCARD:
            events.emit(events.ConnectionMoved, host, ip)
            raise DisconnectionError(f"{host} is no longer at {ip}")
        peer.note_seen(now, wall)

    def _probe(self, connection: DBAPIConnection, ip: str) -> None:
        engine = self._engine()
        assert engine is not None
        dialect = engine.dialect
        try:
            with deadline(PROBE_TIMEOUT):
                dialect.do_ping(connection)
        except (dialect.loaded_dbapi.Error, DatakitError) as exc:
            self._failed(ip)
            raise DisconnectionError(f"the connection to {ip} does not answer") from exc

    def _handle_error(self, context: ExceptionContext) -> None:
        """Drop a connection to a server that takes no writes any more, and ask where to go."""
        connection = context.connection
        if connection is None or connection.invalidated or connection.closed:
            return
        if isinstance(context.original_exception, DeadlineExceededError):
            context.is_disconnect = True  # an answer may still come, to a question of before
            context.invalidate_pool_on_disconnect = False
            return
        verdict = classify(context.original_exception)
        if verdict is Verdict.WRITER_MOVED:
            if connection.get_execution_options().get("postgresql_readonly"):
                return
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False
        elif verdict is Verdict.DISCONNECT:
            context.is_disconnect = True  # SQLAlchemy does not know all of MySQL's numbers for it
        elif not context.is_disconnect:
            return
        peer: Peer | None = connection.info.get(PEER)
        if peer is not None:
            self._failed(peer.ip)


def mask_password(keywords: dict[str, Any]) -> None:
    """Have those who show a driver's keywords not show the password in them."""
    for name in ("password", "passwd"):
        if isinstance(keywords.get(name), str):
            keywords[name] = Masked(keywords[name])


def check_tls(target: Target, cparams: dict[str, Any]) -> bool:
    """Return whether the URL or the keywords say themselves what TLS is to be.

    Raises:
        ConfigError: `tls=` says it too, or passwords of this kind must not go where that leads.
    """
    verified = target.driver.tls_of(cparams)
    if verified is not None and target.tls is not None:
        raise ConfigError(
            f"tls= for {target.host}, and the URL or connect_args speak of TLS too: use one of them"
        )
    if target.auth is not None and target.auth.needs_verified_tls:
        if target.tls is not None and not target.tls.verifies:
            verified = False
        if verified is False:
            raise ConfigError(
                f"{target.auth!r} for {target.host} needs verified TLS, since whoever has a token "
                "can log in with it: use tls=Tls(ca=...) with mode 'verify-full'"
            )
    return verified is not None


def connect_verdict(exc: BaseException) -> Verdict:
    """Return the verdict of a failure to connect, where nothing can have executed.

    Refused credentials are final: whoever brings others has done so.
    """
    verdict = classify(exc)
    if verdict is Verdict.DISCONNECT:
        return Verdict.NOT_SENT
    return Verdict.FATAL if verdict is Verdict.AUTH else verdict
