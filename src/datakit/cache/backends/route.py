"""Where a cache server's name leads: connections by datakit's resolver, each in its time."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from datakit import events
from datakit.cache.backends.url import Target
from datakit.dns.departures import Departures
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline

if TYPE_CHECKING:
    from datakit.dns import AsyncResolver, Resolver

LOOK_EVERY: Final = 1.0
"""Seconds for which a connection is used without a look at where its server's name leads."""

LOOK_FOR: Final = 0.1
"""Seconds that the look may take; a connection that works is used after that."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""An idle connection whose server is gone is found out in 45 s. Source: redis-py's defaults."""


class Reached(NamedTuple):
    """A connected socket, and the address that it leads to."""

    sock: socket.socket
    ip: str


class _Departing:
    """What both sides remember."""

    def __init__(self, target: Target, connect_timeout: float) -> None:
        self._host = target.host
        self._port = target.port
        self._connect_timeout = connect_timeout
        self._departures = Departures()

    def _made(self, sock: socket.socket) -> Reached:
        """Return a connection that was just made, set up."""
        try:
            ip: str = sock.getpeername()[0]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:  # the server has closed it already
            sock.close()
            raise
        self._departures.forget(ip)
        return Reached(sock, ip)

    def _stays(self, ip: str, now: float, *, is_current: bool) -> bool:
        if not self._departures.has_left(ip, now, is_current=is_current):
            return True
        events.emit(events.ConnectionMoved, self._host, ip)
        return False


class Route(_Departing):
    """For threads."""

    def __init__(self, target: Target, resolver: "Resolver", connect_timeout: float) -> None:
        super().__init__(target, connect_timeout)
        self._resolver = resolver

    def connect(self) -> Reached:
        """Return a new connection; its socket's timeout is that of connecting.

        Raises:
            OSError: no address takes a connection, or none did in time.
            DnsError: the name has no address.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        seconds = deadline.bound(self._connect_timeout)
        with _own_time():
            sock = self._resolver.connect(self._host, self._port, timeout=seconds)
        sock.settimeout(seconds)
        return self._made(sock)

    def leads_to(self, ip: str, now: float) -> bool:
        """Return False for an address that the name has not led to for longer than it may flap.

        now: the monotonic second.
        """
        try:
            with deadline(LOOK_FOR):
                is_current = self._resolver.is_current(self._host, ip)
        except DeadlineExceededError:
            return True
        return self._stays(ip, now, is_current=is_current)

    def failed(self, ip: str) -> None:
        """Take note that `ip` leads to the wrong node: the servers are asked again."""
        self._resolver.report_failure(self._host, ip)


class AsyncRoute(_Departing):
    """For tasks: the same names, awaited where they wait."""

    def __init__(self, target: Target, resolver: "AsyncResolver", connect_timeout: float) -> None:
        super().__init__(target, connect_timeout)
        self._resolver = resolver

    def begin(self, limit: asyncio.Timeout) -> None:
        """Set `limit` to the time that a new connection may take, its encryption included."""
        seconds = deadline.bound(self._connect_timeout)
        limit.reschedule(asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> Reached:
        """Return a new connection; its socket does not block.

        Raises: as `Route.connect`.
        """
        seconds = deadline.bound(self._connect_timeout)
        with _own_time():
            return self._made(await self._resolver.connect(self._host, self._port, timeout=seconds))

    async def leads_to(self, ip: str, now: float) -> bool:
        """Return what `Route.leads_to` does."""
        try:
            with deadline(LOOK_FOR):
                is_current = await self._resolver.is_current(self._host, ip)
        except DeadlineExceededError:
            return True
        return self._stays(ip, now, is_current=is_current)

    def failed(self, ip: str) -> None:
        """Take note that `ip` leads to the wrong node: the servers are asked again."""
        self._resolver.report_failure(self._host, ip)


@contextmanager
def _own_time() -> Iterator[None]:
    """Tell the end of our own time from that of the caller's, which says nothing of the server."""
    try:
        yield
    except DeadlineExceededError as exc:
        if deadline.remaining() == 0:
            raise
        raise TimeoutError(str(exc)) from exc
