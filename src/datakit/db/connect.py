"""From host names to a connection: the right server found, tried until the deadline, logged in.

A listener on an engine's event; that of an AsyncEngine sits on its `sync_engine` and waits through
SQLAlchemy's greenlet.
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from datakit._clock import MAX_WAIT, Clock
from datakit.auth import Login, PasswordAuth, Tls
from datakit.auth.masked import Masked, without_frames
from datakit.db import finding
from datakit.db.classification import classify
from datakit.db.finding import Finder
from datakit.db.policies import for_connecting
from datakit.db.target import Candidate, Target
from datakit.db.upkeep import Upkeep
from datakit.errors import ConfigError, DeadlineExceededError, DnsError, NameNotFoundError
from datakit.resilience import Gate, RetryPolicy, Verdict, deadline
from datakit.resilience.deadlines import is_callers, over
from datakit.resilience.verdict import LINK_LOST

T = TypeVar("T")

PROXY_SPACING: Final = 0.005
"""Seconds between callers that come back through a proxy. Source: RDS Proxy documentation, 200 new
connections with a token a second."""

SPACING: Final = 0.002
"""Seconds between those that come back to a server."""


class Waits(finding.Waits, Protocol):
    """What the connect path waits for, blocking or through SQLAlchemy's greenlet."""

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        ...

    def login(self, auth: PasswordAuth, login: Login) -> Login:
        """Return `login` with its password."""
        ...

    def through(self, gate: Gate, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, begun when the gate lets it."""
        ...


class Connector:
    """Makes and looks at the connections of one engine."""

    def __init__(self, target: Target, waits: Waits, policy: RetryPolicy, clock: Clock) -> None:
        self.target = target
        self._policy = for_connecting(policy, target.host, self._verdict, clock)
        self._waits = waits
        self._clock = clock
        self._gate = _gate_of(target, policy)
        self._keywords = target.driver.keywords(target.endpoint)
        self._tls: dict[str, Any] | None = None
        self.finder = Finder(target, waits, clock)
        self.upkeep = Upkeep(target, self.finder, waits.is_current, clock)
        self._last_failure = ""

    @property
    def deadline(self) -> float:
        """Seconds for connecting in all."""
        return self._policy.deadline

    def install(self, engine: Engine) -> None:
        """Listen to `engine`'s events."""
        event.listen(engine, "do_connect", self._do_connect)
        self.upkeep.install(engine)
        self.target.driver.install(engine.dialect)

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
        left, callers = deadline.remaining(), is_callers()
        has_less = callers and left is not None and left < self._policy.deadline
        try:
            connection, candidate = self._policy.call(
                self._waits.through, self._gate, lambda: self._attempt(dialect, cparams)
            )
        except (dialect.loaded_dbapi.Error, DnsError, DeadlineExceededError) as exc:
            last = f"; the last attempt failed: {self._last_failure}" if self._last_failure else ""
            if has_less and (isinstance(exc, DeadlineExceededError) or self._is_lost(exc)):
                raise over(f"connecting to {self.target.host}: {exc}{last}") from exc
            if isinstance(exc, dialect.loaded_dbapi.Error):
                raise
            told = self.target.driver.unreachable(f"{exc}{last}")
            for note in getattr(exc, "__notes__", ()):
                told.add_note(note)
            raise told from exc
        self.upkeep.note_made(record, candidate)
        return connection

    def _later_listeners(self, dialect: Dialect) -> Iterator[Callable[..., DBAPIConnection | None]]:
        """Return the user's own, which SQLAlchemy leaves out when ours returns a connection."""
        listeners = iter(dialect.dispatch.do_connect)
        for listener in listeners:
            if listener == self._do_connect:
                return listeners
        return iter(())

    def _attempt(
        self, dialect: Dialect, cparams: dict[str, Any]
    ) -> tuple[DBAPIConnection, Candidate]:
        def connect(candidate: Candidate) -> tuple[DBAPIConnection, Candidate]:
            return self._connected(dialect, cparams, candidate), candidate

        return self.finder.find(connect, self._is_lost)

    def _connected(
        self, dialect: Dialect, cparams: dict[str, Any], candidate: Candidate
    ) -> DBAPIConnection:
        """Return a connection to `candidate`.

        Raises:
            dialect.loaded_dbapi.Error: there is none.
        """
        own = cparams.get("connect_timeout") or self.target.endpoint.connect_timeout
        seconds = deadline.bound(float(own))
        try:
            params = self._parameters(cparams, candidate)
            connection = self._logged_in(dialect, params, candidate, seconds)
            if self.target.endpoint.writes:
                self._check_role(dialect, connection, candidate, seconds)
        except dialect.loaded_dbapi.Error as exc:
            self._last_failure = str(exc)
            if self._is_lost(exc):
                self.finder.failed(candidate)
            raise without_frames(exc) from exc.__cause__
        self.finder.proved(candidate)
        return connection

    def _check_role(
        self,
        dialect: Dialect,
        connection: DBAPIConnection,
        candidate: Candidate,
        seconds: float,
    ) -> None:
        """Let no connection be used for writing that leads to a server which takes no writes.

        Either kind of server tells of its cluster.
        """
        unreachable = self.target.driver.unreachable
        server = f"{candidate.host} ({candidate.ip})"
        try:
            with deadline(seconds):
                writes = self.target.driver.takes_writes(connection)
                self.finder.learn(dialect, connection, anew=not writes)
            if not writes:
                raise unreachable(f"{server} takes no writes now")
        except BaseException as exc:
            dialect.do_terminate(connection)
            if isinstance(exc, DeadlineExceededError):
                raise unreachable(f"{server} did not say in time if it takes writes") from exc
            raise

    def _logged_in(
        self, dialect: Dialect, params: dict[str, Any], candidate: Candidate, seconds: float
    ) -> DBAPIConnection:
        """Return a connection, with another password if the first one is refused."""
        target, refusals = self.target, 0
        asked = Login(candidate.host, candidate.port, str(params.get("user") or target.user))
        while True:
            login = asked
            if target.auth is not None:
                login = self._waits.login(target.auth, asked)
                password = None if login.password is None else Masked(login.password)
                params = {**params, "user": login.user, "password": password}
            try:
                return self._driven(dialect, params, candidate.ip, seconds)
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

    def _parameters(self, cparams: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
        """Return the driver's keywords: the endpoint's, TLS's, and over them the user's."""
        target = self.target
        cparams = {**cparams, "host": candidate.host, "port": candidate.port}
        spoken = check_tls(target, cparams)
        needed = target.tls or (target.auth is not None and target.auth.needs_verified_tls)
        if spoken or not (needed or not ip_address(candidate.ip).is_loopback):
            return {**self._keywords, **cparams}
        if self._tls is None:
            self._tls = target.driver.tls_keywords(target.tls or Tls())
        return {**self._keywords, **cparams, **self._tls}

    def _is_lost(self, exc: BaseException) -> bool:
        return self._verdict(exc) in LINK_LOST

    def _verdict(self, exc: BaseException) -> Verdict:
        if isinstance(exc, NameNotFoundError) and not self.finder.was_connected:
            return Verdict.FATAL  # a misspelt host: say so at once
        return connect_verdict(exc)


_gates: WeakValueDictionary[object, Gate] = WeakValueDictionary()


def _gate_of(target: Target, policy: RetryPolicy) -> Gate:
    """Return the gate of an endpoint, one for all engines of the process that want the same of it.

    How long an engine's callers wait there is for its `policy` to say.
    """
    endpoint = target.endpoint
    key = (target.hosts, endpoint.kind, endpoint.writes, policy.base, policy.cap)
    gate = _gates.get(key)
    if gate is None:
        gate = _gates[key] = Gate(
            base=policy.base,
            cap=policy.cap,
            max_wait=MAX_WAIT,
            probe_time=endpoint.connect_timeout + 1.0,
            spacing=PROXY_SPACING if endpoint.pins else SPACING,
            down=lambda exc: connect_verdict(exc) in LINK_LOST,
            name=target.host,
        )
    return gate


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
