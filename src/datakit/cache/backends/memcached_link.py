"""Memcached connections of threads."""

import socket
from time import monotonic
from typing import Any

from datakit.cache.backends.memcached_dialect import Replies
from datakit.cache.backends.sockets import BoundedSocket
from datakit.cache.backends.url import Target
from datakit.resilience.deadlines import deadline

RECEIVED_AT_ONCE = 65_536


class MemcachedLink:
    """A connection that is made."""

    def __init__(self, sock: socket.socket, usual: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = BoundedSocket(sock, monotonic(), usual)
        self._replies = Replies()
        self.used_at = monotonic()

    def exchange(self, commands: list[Any], until: float) -> list[Any]:
        """Send the commands and return their replies, refusals among them, by that second."""
        self._sock.begin(until)
        self._sock.sendall(b"".join(commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            data = self._sock.recv(RECEIVED_AT_ONCE)
            if not data:
                raise ConnectionResetError("memcached closed the connection")
            answers += self._replies.after(data)
        self._replies.check_end(len(commands), len(answers))
        return answers

    def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open and nothing unasked came."""
        return not self._sock.is_readable()

    def close(self) -> None:
        """Close the socket; nothing else is sent."""
        self._sock.close()


class MemcachedDialler:
    """Makes connections to one server."""

    def __init__(self, target: Target, *, timeout: float, connect_timeout: float) -> None:
        self._address = (target.host, target.port)
        self._timeout = timeout
        self._connect_timeout = connect_timeout

    def __call__(self) -> MemcachedLink:
        """Return a new connection."""
        limit = deadline.bound(self._connect_timeout)
        return MemcachedLink(socket.create_connection(self._address, limit), self._timeout)
