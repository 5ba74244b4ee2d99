"""Connections of threads to one Redis server, each command under one time limit."""

import os
from collections import deque
from threading import BoundedSemaphore
from time import monotonic

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from datakit.auth import Login
from datakit.cache.backends.redis_socket import Link, new_link
from datakit.cache.backends.redis_wire import (
    MAX_CONNECTIONS,
    NEWEST_PROTOCOL,
    OLDEST_PROTOCOL,
    allowed,
    connection_options,
    is_outlived,
    is_spent,
)
from datakit.cache.backends.url import Target
from datakit.resilience.deadlines import deadline


class RedisPool:
    """At most 50 connections a process, the last one used first.

    timeout: seconds of a command, the wait for a free connection included; less when the
        enclosing `deadline` is nearer. connect_timeout: seconds to connect, beyond that.
    """

    def __init__(self, target: Target, *, timeout: float, connect_timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._protocol = NEWEST_PROTOCOL
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: deque[Link] = deque()

    def execute(self, *command: str | bytes | int) -> object:
        """Return the server's reply.

        Raises:
            ResponseError: the server refused the command.
            RedisError, OSError: it could not be asked in time.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        if self._pid != os.getpid():
            self._reset()
        until = monotonic() + deadline.bound(self._timeout)
        places = self._places
        if not places.acquire(timeout=until - monotonic()):
            raise TimeoutError(f"all {MAX_CONNECTIONS} connections to {self._target} are busy")
        try:
            link = self._idle_link(until) or self._dial()
            return self._exchange(link, command)
        finally:
            places.release()

    def _exchange(self, link: Link, command: tuple[str | bytes | int, ...]) -> object:
        try:
            link.send_command(*command)
            reply = link.read_response()
        except ResponseError as exc:
            if is_spent(exc):
                link.disconnect()
                self.close()
            else:
                self._idle.append(link)
            raise
        except BaseException:  # a reply may still come: nobody else must read it
            link.disconnect()
            raise
        self._idle.append(link)
        return reply

    def _idle_link(self, until: float) -> Link | None:
        """Return a connection that waits for work, None when there is none in order."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            link.bounded.until = until
            if not is_outlived(self._target, link.made_at, monotonic()) and _is_quiet(link):
                return link
            link.disconnect()
        return None

    def _dial(self) -> Link:
        """Return a new connection, with another password if the first one is refused."""
        auth, asked = self._target.auth, self._target.login
        login = asked if auth is None else auth.login(asked)
        try:
            return self._speak(login)
        except AuthenticationError:
            if auth is None or auth.refused(login, 1) is None:
                raise
        return self._speak(auth.login(asked))

    def _speak(self, login: Login) -> Link:
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

    def _connect(self, protocol: int, login: Login) -> Link:
        options = connection_options(self._target, protocol, login) | {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": deadline.bound(self._connect_timeout),
        }
        link = new_link(self._target, options)
        link.made_at = monotonic()
        link.limit = lambda: monotonic() + allowed(self._timeout)
        try:
            link.connect()
        except BaseException:
            link.disconnect()
            raise
        return link

    def close(self) -> None:
        """Close the connections that wait for work; the next command opens a new one."""
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return


def _is_quiet(link: Link) -> bool:
    """Return whether the server neither closed the connection nor says what nobody asked."""
    try:
        return not link.can_read()
    except (RedisError, OSError):
        return False
