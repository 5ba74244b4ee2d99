"""Pooled connections: looked at when they are taken, and those to a lost server dropped.

Listeners on an engine's events; those of an AsyncEngine sit on its `sync_engine`.
"""

import math
from collections.abc import Callable
from threading import Lock
from typing import Final
from weakref import WeakSet, ref

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from datakit import events
from datakit._clock import Clock
from datakit.db.begin import is_read_only
from datakit.db.checkout import PEER, Look, Peer
from datakit.db.classification import OWN_FAULT, classify
from datakit.db.drivers.watch import SILENT
from datakit.db.finding import Finder
from datakit.db.pool import LookingPool
from datakit.db.target import Candidate, Target
from datakit.dns.departures import Departures
from datakit.errors import DatakitError, DeadlineExceededError
from datakit.resilience import Verdict, deadline
from datakit.resilience.forks import renew_after_fork

PROBE_TIMEOUT: Final = 2.0
"""Seconds that a pooled connection has to show that it lives."""


class Peers:
    """The connections of one engine that are alive."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: WeakSet[Peer] = WeakSet()

    def add(self, peer: Peer) -> None:
        """Take note of a new connection."""
        with self._lock:
            self._all.add(peer)

    def doubt(self, server: Candidate) -> None:
        """Doubt all connections to `server`."""
        for peer in self._to(server):
            peer.doubt()

    def condemn(self, server: Candidate) -> None:
        """Condemn all connections to `server`."""
        for peer in self._to(server):
            peer.condemn()

    def _to(self, server: Candidate) -> list[Peer]:
        with self._lock:
            return [peer for peer in self._all if peer.server.place == server.place]


class Upkeep:
    """Looks after the pooled connections of one engine.

    is_current: whether an address is one of its name's now.
    """

    def __init__(
        self,
        target: Target,
        finder: Finder,
        is_current: Callable[[str, str], bool],
        clock: Clock,
    ) -> None:
        self._target = target
        self._finder = finder
        self._is_current = is_current
        self._clock = clock
        self._recycle = target.endpoint.recycle
        self._peers = Peers()
        self._departures = Departures()

    @property
    def recycle(self) -> float:
        """Seconds after which a connection is replaced when it is taken."""
        engine = self._engine()
        own = math.inf if engine is None else engine.pool._recycle
        return own if self._recycle == math.inf else self._recycle

    def install(self, engine: Engine) -> None:
        """Listen to `engine`'s events."""
        self._engine = ref(engine)
        if engine.pool._recycle > -1:
            self._recycle = math.inf  # SQLAlchemy's own, which the user asked for, is at work
        if isinstance(engine.pool, LookingPool):
            engine.pool.look = self._look
        else:
            event.listen(engine, "checkout", self._checkout)
        event.listen(engine, "handle_error", self._handle_error)
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Leave the parent's connections to it; called in a forked child."""
        self._peers = Peers()
        engine = self._engine()
        if engine is not None:
            engine.dispose(close=False)

    def note_made(self, record: ConnectionPoolEntry, candidate: Candidate) -> None:
        """Take note of a new connection."""
        peer = Peer(candidate, self._clock.monotonic(), self._clock.wall())
        record.info[PEER] = peer
        self._peers.add(peer)
        self._departures.forget(candidate.ip)

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
            DisconnectionError: it is dead, too old, to a server that is not the right one any
                more, or its name points elsewhere now.
        """
        host, ip = peer.server.host, peer.server.ip
        now, wall = self._clock.monotonic(), self._clock.wall()
        probe_after = self._target.endpoint.probe_after
        look = peer.look(now, wall, recycle=self._recycle, probe_after=probe_after)
        if look is Look.DISCARD:
            reason = "leads to a server that was left" if peer.is_condemned else "is too old"
            raise DisconnectionError(f"the connection to {ip} {reason}")
        if look is Look.PROBE and entry.dbapi_connection is not None:
            self._probe(entry.dbapi_connection, peer)
        if self._departures.has_left(ip, now, is_current=self._is_current(host, ip)):
            events.emit(events.ConnectionMoved, host, ip)
            raise DisconnectionError(f"{host} is no longer at {ip}")
        peer.note_seen(now, wall)

    def _probe(self, connection: DBAPIConnection, peer: Peer) -> None:
        engine = self._engine()
        assert engine is not None
        dialect = engine.dialect
        try:
            with deadline(PROBE_TIMEOUT):
                dialect.do_ping(connection)
        except (dialect.loaded_dbapi.Error, DatakitError) as exc:
            if isinstance(exc, DeadlineExceededError) and deadline.remaining() != 0:
                self._leave(peer)  # silent: the others would take as long
            else:
                self._finder.lost(peer.server)
            raise DisconnectionError(f"the connection to {peer.server.ip} does not answer") from exc

    def _handle_error(self, context: ExceptionContext) -> None:
        """Drop the connections that an error speaks of, and no others; ask where to go."""
        connection = context.connection
        if connection is None or connection.invalidated or connection.closed:
            return
        peer = _peer_of(connection)
        if isinstance(context.original_exception, DeadlineExceededError):
            context.is_disconnect = True  # an answer may still come, to a question of before
            context.invalidate_pool_on_disconnect = False
            if peer is not None:
                self._peers.doubt(peer.server)
            return
        verdict = classify(context.original_exception)
        if verdict is Verdict.WRITER_MOVED:
            is_reader = self._target.endpoint.kind == "reader"
            if is_reader or is_read_only(dict(connection.get_execution_options())):
                setattr(context.original_exception, OWN_FAULT, True)
                return
            if peer is not None:
                self._leave(peer)
        elif verdict is Verdict.DISCONNECT or context.is_disconnect:
            if peer is not None and hasattr(context.original_exception, SILENT):
                self._leave(peer)
            elif peer is not None:
                self._peers.doubt(peer.server)
                self._finder.lost(peer.server)
        else:
            return
        context.is_disconnect = True  # SQLAlchemy does not know all of MySQL's numbers for it
        context.invalidate_pool_on_disconnect = False

    def _leave(self, peer: Peer) -> None:
        """Use no connection to a server any more that is silent, or not the right one."""
        self._peers.condemn(peer.server)
        self._finder.failed(peer.server)


def _peer_of(connection: Connection) -> Peer | None:
    """Return where `connection` leads, None while SQLAlchemy reads its dialect's settings."""
    try:
        peer: Peer | None = connection.info.get(PEER)
    except NotImplementedError:
        return None
    return peer
