"""Where a cache server's name leads: connections by datakit's resolver, each in its time."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from datakit import events
from datakit.cache.backends.share import share, tells
from datakit.cache.backends.url import Target
from datakit.dns.addresses import Address
from datakit.dns.connecting import race
from datakit.dns.connecting_async import race as race_async
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


class Home:
    """The one address that all connections of a cache lead to, threads' and tasks' alike.

    A name may lead to two living servers for a while. The leases and the invalidations of a
    process must meet in one of them: connections to any other address are not used.
    """

    def __init__(self, host: str) -> None:
        self.ip: str | None = None
        self._host = host
        self._departures = Departures()
        self._is_doubted = False
        self._left_at = -LOOK_EVERY

    def ordered(self, found: Sequence[Address], port: int, now: float) -> list[Address]:
        """Return the addresses to try: the home first, unless the name has left it."""
        ip = self.ip
        if ip is None or not self._stays(ip, now, is_current=any(a.ip == ip for a in found)):
            return list(found)
        return [Address(ip, port), *(address for address in found if address.ip != ip)]

    def _stays(self, ip: str, now: float, *, is_current: bool) -> bool:
        has_left = self._departures.has_left(ip, now, is_current=is_current)
        return is_current or not (has_left or self._is_doubted)

    def settle(self, ip: str) -> None:
        """Make `ip`, to which a connection was just made, the home."""
        before, self.ip = self.ip, ip
        self._is_doubted = False
        if before is not None and before != ip:
            events.emit(events.ConnectionMoved, self._host, before)

    def doubt(self) -> None:
        """Take note that a connection failed: where the name leads elsewhere, that is better."""
        self._is_doubted = True

    def look(self, ip: str, now: float, *, is_current: bool) -> bool:
        """Return whether a connection to `ip` may be used, by whether the name leads there."""
        if not self._departures.has_left(ip, now, is_current=is_current):
            return True
        self.leave(ip)
        events.emit(events.ConnectionMoved, self._host, ip)
        return False

    def leave(self, ip: str) -> None:
        """Use no connection to `ip` any more."""
        if self.ip == ip:
            self.ip = None

    def leave_once(self, ip: str, now: float) -> bool:
        """Leave `ip`, at most once a second, since the name may lead nowhere else; return whether
        it was left."""
        if now < self._left_at + LOOK_EVERY:
            return False
        self._left_at = now
        self.leave(ip)
        return True


class Reached(NamedTuple):
    """A connected socket, and the address that it leads to."""

    sock: socket.socket
    ip: str


class _Way:
    """What the ways of threads and of tasks have in common. resolver: finds the server."""

    def __init__(
        self,
        target: Target,
        home: Home,
        resolver: "Resolver | AsyncResolver",
        connect_timeout: float,
    ) -> None:
        self.home = home
        self._host = target.host
        self._port = target.port
        self._connect_timeout = connect_timeout
        self._report_failure = resolver.report_failure

    def is_wrong(self, ip: str) -> bool:
        """Take note that `ip` leads to the wrong node, and have the DNS servers asked again;
        return whether it is to be left."""
        self._report_failure(self._host, ip)
        return self.home.leave_once(ip, monotonic())

    def _candidates(self, found: Sequence[Address]) -> list[Address]:
        return self.home.ordered(found, self._port, monotonic())

    def _lost(self, address: Address) -> None:
        self._report_failure(self._host, address.ip)
        self.home.leave(address.ip)

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
        self.home.settle(ip)
        return Reached(sock, ip)

    @contextmanager
    def _time(self) -> Iterator[float]:
        """Give the seconds of a connection, and tell their end from that of the caller's."""
        seconds = share(self._connect_timeout)
        try:
            with deadline(seconds):
                yield seconds
        except DeadlineExceededError as exc:
            if deadline.remaining() == 0 or not tells(seconds, self._connect_timeout):
                raise
            raise TimeoutError(str(exc)) from exc


class Route(_Way):
    """For threads."""

    def __init__(
        self, target: Target, home: Home, resolver: "Resolver", connect_timeout: float
    ) -> None:
        super().__init__(target, home, resolver, connect_timeout)
        self._resolver = resolver

    def connect(self) -> Reached:
        """Return a new connection; its socket's timeout is that of connecting.

        Raises:
            OSError: no address takes a connection, or none did in time.
            DnsError: the name has no address.
            DeadlineExceededError: too little is left of the enclosing `deadline`.
        """
        with self._time() as seconds:
            found = self._resolver.addresses(self._host, self._port)
            sock = race(self._candidates(found), self._host, self._lost)
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
        return self.home.look(ip, now, is_current=is_current)


class AsyncRoute(_Way):
    """For tasks: the same names, awaited where they wait."""

    def __init__(
        self, target: Target, home: Home, resolver: "AsyncResolver", connect_timeout: float
    ) -> None:
        super().__init__(target, home, resolver, connect_timeout)
        self._resolver = resolver

    def begin(self, limit: asyncio.Timeout) -> None:
        """Set `limit` to the time that a new connection may take, its encryption included."""
        seconds = share(self._connect_timeout)
        limit.reschedule(asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> Reached:
        """Return a new connection; its socket does not block.

        Raises: as `Route.connect`.
        """
        with self._time():
            found = await self._resolver.addresses(self._host, self._port)
            sock = await race_async(self._candidates(found), self._host, self._lost)
        return self._made(sock)

    async def leads_to(self, ip: str, now: float) -> bool:
        """Return what `Route.leads_to` does."""
        try:
            with deadline(LOOK_FOR):
                is_current = await self._resolver.is_current(self._host, ip)
        except DeadlineExceededError:
            return True
        return self.home.look(ip, now, is_current=is_current)
