"""Redis connections of threads."""

from collections.abc import Callable, Mapping
from ssl import SSLSocket
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
from datakit.cache.backends.sockets import BoundedSocket, BoundedTlsSocket
from datakit.cache.backends.url import Target
from datakit.resilience.deadlines import deadline


class _Bounded:
    """Gives the connection that it is mixed into a bounded socket.

    limit: returns the monotonic second at which a connection made now must be of use.
    usual: seconds that an exchange is mostly given.
    """

    limit: Callable[[], float]
    usual: float
    bounded: BoundedSocket

    def _connect(self) -> BoundedSocket:
        sock = super()._connect()  # type: ignore[misc]
        kind = BoundedTlsSocket if isinstance(sock, SSLSocket) else BoundedSocket
        self.bounded = kind(sock, self.limit(), self.usual)
        return self.bounded


class _TcpConnection(_Bounded, Connection):  # pyright: ignore
    """A connection in the clear."""


class _TlsConnection(_Bounded, SSLConnection):  # pyright: ignore
    """An encrypted connection to a verified server."""


class RedisLink:
    """A connection that is made, spoken to by `exchange`."""

    def __init__(self, target: Target, options: Mapping[str, Any], timeout: float) -> None:
        self._target = target
        self._made_at = monotonic()
        self.used_at = self._made_at
        kind: Any = _TlsConnection if target.tls else _TcpConnection
        self._conn = kind(**options)
        self._conn.usual = timeout
        self._conn.limit = lambda: monotonic() + deadline.bound(timeout)
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

    def __init__(self, target: Target, *, timeout: float, connect_timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
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
        options = connection_options(self._target, protocol, login) | {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": deadline.bound(self._connect_timeout),
        }
        return RedisLink(self._target, options, self._timeout)
