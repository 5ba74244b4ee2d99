"""Connections of tasks to one Redis server, each command under one time limit."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from datakit.auth import Login
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


class _Announcing:
    """Tells when the connection that it is mixed into is made and the handshake begins."""

    connected: Callable[[], None]
    made_at: float

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[misc]
        self.connected()


class TcpConnection(_Announcing, Connection):
    """A connection in the clear."""


class TlsConnection(_Announcing, SSLConnection):
    """An encrypted connection to a verified server."""


Link: TypeAlias = TcpConnection | TlsConnection


class _LoopPool:
    """The connections of one event loop; sockets and waits belong to it alone."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONNECTIONS)
        self.idle: list[Link] = []


class AsyncRedisPool:
    """At most 50 connections an event loop, the last one used first.

    timeout: seconds of a command, the wait for a free connection included; less when the
        enclosing `deadline` is nearer. connect_timeout: seconds to connect, beyond that.
    """

    def __init__(self, target: Target, *, timeout: float, connect_timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._protocol = NEWEST_PROTOCOL
        self._pools: dict[asyncio.AbstractEventLoop, _LoopPool] = {}

    def _pool(self) -> _LoopPool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            open_pools = {loop: pool for loop, pool in self._pools.items() if not loop.is_closed()}
            pool = open_pools[loop] = _LoopPool()
            self._pools = open_pools
        return pool

    async def execute(self, *command: str | bytes | int) -> object:
        """Return the server's reply.

        Raises:
            ResponseError: the server refused the command.
            RedisError, OSError: it could not be asked in time.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        pool = self._pool()
        limit = asyncio.timeout(deadline.bound(self._timeout))
        try:
            async with limit, pool.places:
                link = await self._idle_link(pool) or await self._dial(limit)
                return await self._exchange(pool, link, command)
        except TimeoutError as exc:
            if limit.expired():
                raise TimeoutError(f"no answer from {self._target} in time") from exc
            raise

    async def _exchange(
        self, pool: _LoopPool, link: Link, command: tuple[str | bytes | int, ...]
    ) -> object:
        try:
            await link.send_command(*command)
            reply: object = await link.read_response()
        except ResponseError as exc:
            pool.idle.append(link)
            if is_spent(exc):
                await self._drop_idle(pool)
            raise
        except BaseException:  # a reply may still come: nobody else must read it
            await link.disconnect(nowait=True)
            raise
        pool.idle.append(link)
        return reply

    async def _idle_link(self, pool: _LoopPool) -> Link | None:
        """Return a connection that waits for work, None when there is none in order."""
        while pool.idle:
            link = pool.idle.pop()
            now = asyncio.get_running_loop().time()
            if not is_outlived(self._target, link.made_at, now) and await _is_quiet(link):
                return link
            await link.disconnect(nowait=True)
        return None

    async def _dial(self, limit: asyncio.Timeout) -> Link:
        """Return a new connection, with another password if the first one is refused."""
        auth, asked = self._target.auth, self._target.login
        login = asked if auth is None else await auth.alogin(asked)
        try:
            return await self._speak(limit, login)
        except AuthenticationError:
            if auth is None or auth.refused(login, 1) is None:
                raise
        return await self._speak(limit, await auth.alogin(asked))

    async def _speak(self, limit: asyncio.Timeout, login: Login) -> Link:
        """Return a new connection; a server that does not know RESP3 is asked for RESP2."""
        try:
            return await self._connect(self._protocol, limit, login)
        except ResponseError:
            if self._protocol == OLDEST_PROTOCOL:
                raise
        # outside the handler: the refusal may echo the credentials sent with HELLO
        link = await self._connect(OLDEST_PROTOCOL, limit, login)
        self._protocol = OLDEST_PROTOCOL
        return link

    async def _connect(self, protocol: int, limit: asyncio.Timeout, login: Login) -> Link:
        kind = TlsConnection if self._target.tls else TcpConnection
        link = kind(
            **connection_options(self._target, protocol, login),
            socket_timeout=None,  # `limit` is over everything, and costs one timer, not three
            socket_connect_timeout=None,
        )
        now = asyncio.get_running_loop().time
        link.made_at = now()
        link.connected = lambda: limit.reschedule(now() + allowed(self._timeout))
        limit.reschedule(now() + allowed(self._connect_timeout))
        try:
            await link.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await link.disconnect(nowait=True)
            raise
        return link

    async def close(self) -> None:
        """Close the running loop's connections that wait for work."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        for link in pool.idle if pool else ():
            with suppress(TimeoutError, RedisError, OSError):
                async with asyncio.timeout(self._timeout):  # TLS waits for the peer's farewell
                    await link.disconnect()

    async def _drop_idle(self, pool: _LoopPool) -> None:
        idle, pool.idle = pool.idle, []
        for link in idle:
            await link.disconnect(nowait=True)


async def _is_quiet(link: Link) -> bool:
    """Return whether the server neither closed the connection nor says what nobody asked."""
    try:
        return not await link.can_read()
    except (RedisError, OSError):
        return False
