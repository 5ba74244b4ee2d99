"""Redis connections of threads."""

import socket
from collections.abc import Mapping
from time import monotonic
from typing import Any

from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, ResponseError

from datakit.auth import Login
from datakit.cache.backends.redis_options import (
    NEWEST_PROTOCOL,
    OLDEST_PROTOCOL,
    connection_options,
    is_outlived,
    refusal,
)
from datakit.cache.backends.route import Route
from datakit.cache.backends.share import share
from datakit.cache.backends.sockets import BoundedSocket, BoundedTlsSocket
from datakit.cache.backends.url import Target


class _TcpConnection(Connection):
    """A connection in the clear, over a bounded socket."""

    reached: socket.socket
    usual: float
    """Seconds that an exchange is mostly given."""
    bounded: BoundedSocket

    def _connect(self) -> Any:
        try:
            self.bounded = self._bound(self.reached)
        except BaseException:
            self.reached.close()
            raise
        return self.bounded

    def _bound(self, sock: socket.socket) -> BoundedSocket:
        return BoundedSocket(sock, monotonic() + share(self.usual), self.usual)


class _TlsConnection(_TcpConnection, SSLConnection):
    """An encrypted connection to a verified server."""

    def _bound(self, sock: socket.socket) -> BoundedSocket:
        encrypted = self._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        return BoundedTlsSocket(encrypted, monotonic() + share(self.usual), self.usual)


class RedisLink:
    """A connection that is made, spoken to by `exchange`."""

    def __init__(self, target: Target, options: Mapping[str, Any], route: Route) -> None:
        self._target = target
        self._made_at = monotonic()
        self.used_at = self.looked_at = self._made_at
        kind: Any = _TlsConnection if target.tls else _TcpConnection
        self._conn = kind(**options)
        self._conn.usual = options["socket_timeout"]
        self._conn.reached, self.ip = route.connect()
        try:
            self._conn.connect()
        except BaseException:
            self._conn.disconnect()
            raise

    def exchange(self, commands: list[Any], until: float) -> list[Any]:
        """Send the commands and return their replies, refusals among them, by that second."""
        conn = self._conn
        conn.bounded.begin(until)
        conn.send_packed_command(conn.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(conn.read_response())
            except ResponseError as exc:
                replies.append(refusal(exc))
        return replies

    def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open, nothing unasked came, it is not too old."""
        if is_outlived(self._target, self._made_at, now):
            return False
        return not self._conn.bounded.is_readable()

    def close(self) -> None:
        """Close the socket; nothing else is sent."""
        self._conn.disconnect()


class RedisDialler:
    """Makes connections to one server."""

    def __init__(self, target: Target, route: Route, timeout: float) -> None:
        self._target = target
        self._route = route
        self._timeout = timeout
        self._protocol = NEWEST_PROTOCOL

    def __call__(self) -> RedisLink:
        """Return a new connection, with another password if the first one is refused."""
        auth, asked = self._target.auth, self._target.login
        login = asked if auth is None else auth.login(asked)
        try:
            return self._speak(login)
        except AuthenticationError:
            if auth is None or auth.refused(login, 1) is None:
                raise
        return self._speak(auth.login(asked))

    def _speak(self, login: Login) -> RedisLink:
        """Return a new connection; a server that does not know RESP3 is asked for RESP2."""
        try:
            return self._connect(self._protocol, login)
        except ResponseError:
            if self._protocol == OLDEST_PROTOCOL:
                raise
        # outside the handler: the refusal may echo the credentials sent with HELLO
        link = self._connect(OLDEST_PROTOCOL, login)
        self._protocol = OLDEST_PROTOCOL
        return link

    def _connect(self, protocol: int, login: Login) -> RedisLink:
        options = connection_options(self._target, protocol, login, self._timeout)
        return RedisLink(self._target, options, self._route)
