"""Connections of threads to one server, each exchange under one time limit.

Own code, since the libraries' pools cannot do it: pymemcache's raises when it is full, redis-py's
waits for a time of its own that knows no `deadline`. This one serves both.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition
from time import monotonic
from typing import Any, Final, Protocol

from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.route import LOOK_EVERY, Route
from datakit.cache.backends.share import share
from datakit.resilience.forks import renew_after_fork

MAX_CONNECTIONS: Final = 50
"""Connections per process (and per event loop); more callers wait their turn."""

PROBED_AFTER: Final = 0.1
"""Seconds without use after which a connection is looked at before it is used again."""


class Link(Protocol):
    """One connection."""

    used_at: float
    """The monotonic second of its last exchange."""
    looked_at: float
    """The monotonic second at which its server's name was seen to lead there."""
    ip: str
    """Where it leads."""

    def exchange(self, commands: list[Any], until: float) -> list[Any]:
        """Send the commands and return their replies, refusals among them, by that second."""
        ...

    def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open, nothing unasked came, it is not too old."""
        ...

    def close(self) -> None:
        """Close the socket; nothing else is sent."""


class Pool:
    """At most 50 connections a process, the last one used first.

    dial: makes a connection, along `route`. timeout: seconds of an exchange, the wait for a free
    connection included; half of what is left when the enclosing `deadline` is nearer.
    """

    def __init__(self, dial: Callable[[], Link], route: Route, timeout: float) -> None:
        self._dial = dial
        self._route = route
        self._timeout = timeout
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Leave all connections to the parent; called in a forked child."""
        self._places: deque[Link | None] = deque([None] * MAX_CONNECTIONS)
        """What nobody uses: idle connections, the last used one on the right, and room for more."""
        self._freed = Condition()
        self._waiting = 0

    def exchange(self, commands: list[Any], whole: bool = False) -> list[Any]:
        """Return the server's replies. whole: whether all of a nearer `deadline` may be taken.

        Raises:
            OSError or the driver's error: it could not be asked in time.
            DeadlineExceededError: so little is left of the enclosing `deadline` that this says
                nothing of the server.
        """
        home = self._route.home
        now = monotonic()
        given = share(self._timeout, whole=whole)
        until = now + given
        try:
            link = self._places.pop()
        except IndexError:
            link = self._wait(until, given)
        try:
            if link is not None and not self._may_serve(link, now):
                link.close()
                link = None
            if link is None:
                link = self._dial()
                given = share(self._timeout, whole=whole)
                until = monotonic() + given
            replies = link.exchange(commands, until)
        except BaseException as exc:  # a reply may still come: nobody else must read it
            if link is not None:
                link.close()
            self._free(None)
            if isinstance(exc, Exception):
                self._route.judge(exc, given, self._timeout)
            raise
        if home.is_doubted or home.silence:
            home.answered()
        link.used_at = now
        self._free(link)
        for reply in replies:
            if type(reply) is RefusedError and reply.spent and self._route.is_wrong(link.ip):
                self.close()
        return replies

    def _may_serve(self, link: Link, now: float) -> bool:
        """Return whether it is in order, and leads to where all connections do."""
        if link.ip != self._route.home.ip:
            return False
        if now > link.used_at + PROBED_AFTER and not link.is_usable(now):
            return False
        if now > link.looked_at + LOOK_EVERY:
            link.looked_at = now
            return self._route.leads_to(link.ip, now)
        return True

    def _wait(self, until: float, given: float) -> Link | None:
        with self._freed:
            self._waiting += 1
            try:
                while True:
                    with suppress(IndexError):
                        return self._places.pop()
                    if not self._freed.wait(until - monotonic()):
                        busy = TimeoutError(f"all {MAX_CONNECTIONS} connections are busy")
                        self._route.judge(busy, given, self._timeout)
                        raise busy
            finally:
                self._waiting -= 1

    def _free(self, link: Link | None) -> None:
        """Give a place back, as the first one to be used again where it has a connection."""
        if link is None:
            self._places.appendleft(None)
        else:
            self._places.append(link)
        if self._waiting:  # seen without the lock: who counts himself looks once more after that
            with self._freed:
                self._freed.notify()

    def close(self) -> None:
        """Close the connections that wait for work; the next exchange opens a new one."""
        for _ in range(MAX_CONNECTIONS):
            try:
                link = self._places.pop()
            except IndexError:
                return
            if link is not None:
                link.close()
            self._free(None)
