"""A blocking socket whose every wait ends at one point in time, however slowly bytes drip in."""

import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

from redis.connection import Connection, SSLConnection

from datakit.cache.backends.url import Target

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class BoundedSocket:
    """A connected socket that raises TimeoutError once `until` (monotonic seconds) is over."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self.until = until

    def _arm(self) -> None:
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, until the time is over."""
        self._arm()
        return self._sock.recv(size, flags)

    def recv_into(self, buffer: "WriteableBuffer") -> int:
        """Receive into `buffer`, until the time is over."""
        self._arm()
        return self._sock.recv_into(buffer)

    def sendall(self, data: "ReadableBuffer") -> None:
        """Send all of `data`, until the time is over."""
        self._arm()
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Bounded:
    """Gives the connection that it is mixed into a bounded socket.

    limit: returns the monotonic second at which a connection made now must be of use. made_at: when
    it was made.
    """

    limit: Callable[[], float]
    bounded: BoundedSocket
    made_at: float

    def _connect(self) -> BoundedSocket:
        sock = super()._connect()  # type: ignore[misc]
        self.bounded = BoundedSocket(sock, self.limit())
        return self.bounded


class _TcpConnection(_Bounded, Connection):  # pyright: ignore
    """A connection in the clear."""


class _TlsConnection(_Bounded, SSLConnection):  # pyright: ignore
    """An encrypted connection to a verified server."""


class Link(Protocol):
    """What a pool uses of a redis-py connection, whose methods have no types."""

    bounded: BoundedSocket
    limit: Callable[[], float]
    made_at: float

    def connect(self) -> None:
        """Connect and shake hands, unless that is done."""

    def disconnect(self) -> None:
        """Close the socket, if there is one."""

    def can_read(self) -> bool:
        """Return whether bytes have come; raises when the server has closed."""
        ...

    def send_command(self, *command: str | bytes | int) -> None:
        """Send one command."""

    def read_response(self) -> object:
        """Return the next reply."""
        ...


def new_link(target: Target, options: Mapping[str, Any]) -> Link:
    """Return a connection that is not connected yet."""
    kind = _TlsConnection if target.tls else _TcpConnection
    return cast("Link", kind(**options))
