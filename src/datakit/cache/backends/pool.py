"""Connections of threads to one server, each exchange under one time limit.

Own code, since the libraries' pools cannot do it: pymemcache's raises when it is full, redis-py's
waits for a time of its own that knows no `deadline`. This one serves both.
"""

import os
from collections import deque
from collections.abc import Callable
from threading import BoundedSemaphore
from time import monotonic
from typing import Any, Final, Protocol

from datakit.cache.backends.base import RefusedError
from datakit.resilience.deadlines import deadline

MAX_CONNECTIONS: Final = 50
"""Connections per process (and per event loop); more callers wait their turn."""


class Link(Protocol):
    """One connection."""

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

    dial: makes a connection. timeout: seconds of an exchange, the wait for a free connection
    included; less when the enclosing `deadline` is nearer. name: the server's, for errors.
    """

    def __init__(self, dial: Callable[[], Link], *, timeout: float, name: str) -> None:
        self._dial = dial
        self._timeout = timeout
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: deque[Link] = deque()

    def exchange(self, commands: list[Any]) -> list[Any]:
        """Return the server's replies.

        Raises:
            OSError or the driver's error: it could not be asked in time.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        if self._pid != os.getpid():
            self._reset()
        until = monotonic() + deadline.bound(self._timeout)
        places = self._places
        if not places.acquire(blocking=False) and not places.acquire(timeout=until - monotonic()):
            raise TimeoutError(f"all {MAX_CONNECTIONS} connections to {self._name} are busy")
        try:
            link = self._idle_link()
            if link is None:
                link = self._dial()
                until = monotonic() + deadline.bound(self._timeout)
            return self._exchange(link, commands, until)
        finally:
            places.release()

    def _exchange(self, link: Link, commands: list[Any], until: float) -> list[Any]:
        try:
            replies = link.exchange(commands, until)
        except BaseException:  # a reply may still come: nobody else must read it
            link.close()
            raise
        self._idle.append(link)
        for reply in replies:
            if type(reply) is RefusedError and reply.spent:
                self.close()
        return replies

    def _idle_link(self) -> Link | None:
        """Return a connection that waits for work, None when there is none in order."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if link.is_usable(monotonic()):
                return link
            link.close()
        return None

    def close(self) -> None:
        """Close the connections that wait for work; the next exchange opens a new one."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return
