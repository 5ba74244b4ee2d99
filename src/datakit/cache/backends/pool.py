"""Connections of threads to one server, each exchange under one time limit.

Own code, since the libraries' pools cannot do it: pymemcache's raises when it is full, redis-py's
waits for a time of its own that knows no `deadline`. This one serves both.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock, RLock
from time import monotonic
from typing import Any, Final, Protocol

from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.route import LOOK_EVERY, Route
from datakit.cache.backends.share import QUEUE_FOR, busy, share
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


class _Turn:
    """A thread that waits for a place; `given` is released when it has one."""

    __slots__ = ("given", "link")

    def __init__(self) -> None:
        self.given = Lock()
        self.given.acquire()
        self.link: Link | None = None


class Pool:
    """At most 50 connections a process, the last one used first; who has none waits in turn.

    dial: makes a connection, along `route`. timeout: seconds of an exchange; half of what is left
    when the enclosing `deadline` is nearer. The wait for a free connection comes before that, as
    long as the server answers the others.
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
        self._turns: deque[_Turn] = deque()
        self._lock = RLock()  # what the garbage collector ends may free a place while we hold it

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
        try:
            link = self._places.pop()
        except IndexError:
            link, given = self._wait(whole)
            now = monotonic()
        until = now + given
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
        if home.losses or home.silence:
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

    def _wait(self, whole: bool) -> tuple[Link | None, float]:
        """Return a place, once it is our turn, and the seconds that its use may take."""
        seconds = share(QUEUE_FOR, whole=whole)
        turn = _Turn()
        self._turns.append(turn)
        try:
            self._hand_on()  # what became free before we stood in line
            if not turn.given.acquire(timeout=seconds):
                raise busy(seconds)
            if self._route.home.is_lost:
                raise TimeoutError("the server failed others that were before us")
            return turn.link, share(self._timeout, whole=whole)
        except BaseException:
            with self._lock:
                if turn in self._turns:
                    self._turns.remove(turn)
                    raise
            self._free(turn.link)
            raise

    def _free(self, link: Link | None) -> None:
        """Give a place back, as the first one to be used again where it has a connection."""
        if link is None:
            self._places.appendleft(None)
        else:
            self._places.append(link)
        if self._turns:
            self._hand_on()

    def _hand_on(self) -> None:
        """Give the places that are free to those who wait, the first one first."""
        with self._lock:
            while self._turns and self._places:
                try:
                    link = self._places.pop()
                except IndexError:  # taken just now
                    return
                turn = self._turns.popleft()
                turn.link = link
                turn.given.release()

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
