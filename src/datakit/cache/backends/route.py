"""Where a cache server's name leads: connections by datakit's resolver, each in its time."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from datakit import events
from datakit.cache.backends.limit import Limit
from datakit.cache.backends.share import is_loss, is_timeout, share, tells
from datakit.cache.backends.url import Target
from datakit.dns.addresses import Address
from datakit.dns.connecting import Failed, race
from datakit.dns.connecting_async import race as race_async
from datakit.dns.departures import Departures
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline, over

if TYPE_CHECKING:
    from datakit.dns import AsyncResolver, Resolver

R = TypeVar("R", "Resolver", "AsyncResolver")

LOOK_EVERY: Final = 1.0
"""Seconds for which a connection is used without a look at where its server's name leads."""

LOST_AFTER: Final = 5
"""Failures without an answer between them; a single lost connection says nothing of the others."""

AT_LEAST: Final = 0.001
"""Seconds that a connection has for its encryption, since 0 would mean not to block."""

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
        self.losses = 0
        """Failures since its last answer. After one, another address is better, where there is one;
        after several, those who wait for a connection need not try."""
        self.silence = 0.0
        """Seconds without an answer since the last one."""
        self._host = host
        self._departures = Departures()
        self._left_at = -inf
        self._counted_until = -inf

    def ordered(self, found: Sequence[Address], port: int, now: float) -> list[Address]:
        """Return the addresses to try: the home first, unless it is doubted or the name left it."""
        ip = self.ip
        if ip is None:
            return list(found)
        others = [address for address in found if address.ip != ip]
        is_current = len(others) < len(found)
        has_left = self._departures.has_left(ip, now, is_current=is_current)
        home = [Address(ip, port)]
        if self.losses or has_left:
            return [*others, *home] if is_current else others
        return [*home, *others]

    @property
    def is_lost(self) -> bool:
        """Whether it failed too often to be tried by those who waited behind others."""
        return self.losses >= LOST_AFTER

    def settle(self, ip: str) -> None:
        """Make `ip`, to which a connection was just made, the home."""
        before, self.ip = self.ip, ip
        if before != ip:
            self._departures.forget(ip)
            if before is not None:
                events.emit(events.ConnectionMoved, self._host, before)

    def answered(self) -> None:
        """Take note that the home has answered."""
        self.losses = 0
        self.silence = 0.0

    def is_silent(self, given: float, usual: float, now: float) -> bool:
        """Take note that it did not answer in the last `given` seconds, where it has `usual` ones.

        Return whether that, with what came before it, says something of it. The same silence
        towards many callers counts once.
        """
        self.silence += min(given, now - self._counted_until)
        self._counted_until = now
        return tells(self.silence, usual)

    def look(self, ip: str, now: float, *, is_current: bool) -> bool:
        """Return whether a connection to `ip` may be used, by whether the name leads there."""
        if not self._departures.has_left(ip, now, is_current=is_current):
            return True
        self._leave(ip)
        events.emit(events.ConnectionMoved, self._host, ip)
        return False

    def _leave(self, ip: str) -> None:
        if self.ip == ip:
            self.ip = None

    def leave_once(self, ip: str, now: float) -> bool:
        """Use no connection to `ip` any more, but not more often than once a second, since the name
        may lead nowhere else; return whether it was left."""
        if now < self._left_at + LOOK_EVERY:
            return False
        self._left_at = now
        self._leave(ip)
        return True


class Reached(NamedTuple):
    """A connected socket, and the address that it leads to."""

    sock: socket.socket
    ip: str


class _Way(Generic[R]):
    """What the ways of threads and of tasks have in common. resolver: finds the server."""

    def __init__(self, target: Target, home: Home, resolver: R, connect_timeout: float) -> None:
        self.home = home
        self._host = target.host
        self._port = target.port
        self._connect_timeout = connect_timeout
        self._resolver: R = resolver

    def is_wrong(self, ip: str) -> bool:
        """Take note that `ip` leads to the wrong node, and have the DNS servers asked again;
        return whether it is to be left."""
        self._resolver.report_failure(self._host, ip)
        return self.home.leave_once(ip, monotonic())

    def judge(self, exc: Exception, given: float, usual: float) -> None:
        """Take note of what an exchange of `given` seconds, where it has `usual` ones, ended with.

        Where it speaks against the server, that is doubted and the DNS servers are asked again.

        Raises:
            DeadlineExceededError: it says nothing of the server, which had too little time.
        """
        if is_timeout(exc) and not self.home.is_silent(given, usual, monotonic()):
            raise over(f"{self._host} had too little time to answer") from exc
        if is_loss(exc):
            self.home.losses += 1
            if self.home.ip is not None:
                self._resolver.report_failure(self._host, self.home.ip)

    def _candidates(self, found: Sequence[Address]) -> list[Address]:
        return self.home.ordered(found, self._port, monotonic())

    def _lost(self, address: Address) -> None:
        if address.ip == self.home.ip:
            self.home.losses = max(self.home.losses, 1)
        self._resolver.report_failure(self._host, address.ip)

    def _failed(self, seconds: float) -> Failed:
        """Return what is told of addresses that could not be connected to in that time."""
        return self._lost if tells(seconds, self._connect_timeout) else _ignored

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
            if deadline.remaining() == 0:
                raise
            raise TimeoutError(str(exc)) from exc


class Route(_Way["Resolver"]):
    """For threads."""

    def connect(self) -> Reached:
        """Return a new connection; its socket's timeout is what is left of that of connecting.

        Raises:
            OSError: no address takes a connection, or none did in time.
            DnsError: the name has no address.
            DeadlineExceededError: too little is left of the enclosing `deadline`.
        """
        with self._time() as seconds:
            until = monotonic() + seconds
            found = self._resolver.addresses(self._host, self._port)
            sock = race(self._candidates(found), self._host, self._failed(seconds))
        sock.settimeout(max(until - monotonic(), AT_LEAST))
        return self._made(sock)

    def leads_to(self, ip: str, now: float) -> bool:
        """Return False for an address that the name has not led to for longer than it may flap.

        now: the monotonic second.
        """
        try:
            with deadline(share(LOOK_FOR)):
                is_current = self._resolver.is_current(self._host, ip)
        except DeadlineExceededError:
            return True
        return self.home.look(ip, now, is_current=is_current)


class AsyncRoute(_Way["AsyncResolver"]):
    """For tasks: the same names, awaited where they wait."""

    async def connect(self, limit: Limit) -> Reached:
        """Return a new connection; its socket does not block.

        limit: set to the end of the time that it may take, its encryption included.

        Raises: as `Route.connect`.
        """
        limit.reschedule(None)  # the block's own end tells who was silent
        with self._time() as seconds:
            until = asyncio.get_running_loop().time() + seconds
            found = await self._resolver.addresses(self._host, self._port)
            failed = self._failed(seconds)
            sock = await race_async(self._candidates(found), self._host, failed)
        limit.reschedule(until)
        return self._made(sock)

    async def leads_to(self, ip: str, now: float) -> bool:
        """Return what `Route.leads_to` does."""
        try:
            with deadline(share(LOOK_FOR)):
                is_current = await self._resolver.is_current(self._host, ip)
        except DeadlineExceededError:
            return True
        return self.home.look(ip, now, is_current=is_current)


def _ignored(_address: Address) -> None:
    """Say nothing of a server that had too little time."""
