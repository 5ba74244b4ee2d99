"""Memcached connections of threads."""

from time import monotonic
from typing import Any

from datakit.cache.backends.memcached_dialect import Replies
from datakit.cache.backends.route import Reached, Route
from datakit.cache.backends.sockets import BoundedSocket

RECEIVED_AT_ONCE = 65_536


class MemcachedLink:
    """A connection that is made."""

    def __init__(self, reached: Reached, usual: float) -> None:
        self.ip = reached.ip
        self._sock = BoundedSocket(reached.sock, monotonic(), usual)
        self._replies = Replies()
        self.used_at = self.looked_at = monotonic()

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

    def __init__(self, route: Route, timeout: float) -> None:
        self._route = route
        self._timeout = timeout

    def __call__(self) -> MemcachedLink:
        """Return a new connection."""
        return MemcachedLink(self._route.connect(), self._timeout)
