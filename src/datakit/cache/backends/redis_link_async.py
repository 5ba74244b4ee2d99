"""Redis connections of tasks."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from datakit.auth import Login
from datakit.cache.backends.limit import Limit
from datakit.cache.backends.redis_options import (
    NEWEST_PROTOCOL,
    OLDEST_PROTOCOL,
    connection_options,
    is_outlived,
    refusal,
)
from datakit.cache.backends.route import AsyncRoute
from datakit.cache.backends.share import share
from datakit.cache.backends.url import Target


class _TcpConnection(Connection):
    """A connection in the clear."""

    reached: socket.socket
    connected: Callable[[], None]
    """Called when the connection is made and the handshake begins."""

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call]
        self.connected()

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {"sock": self.reached}


class _TlsConnection(_TcpConnection, SSLConnection):
    """An encrypted connection to a verified server."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {
            "sock": self.reached, "ssl": self.ssl_context.get(), "server_hostname": self.host,
        }  # fmt: skip


class AsyncRedisLink:
    """A connection that is made, spoken to by `exchange`."""

    def __init__(self, target: Target, ip: str, conn: Any) -> None:
        self._target = target
        self.ip = ip
        self._conn = conn
        self._made_at = self.looked_at = asyncio.get_running_loop().time()

    async def exchange(self, commands: list[Any]) -> list[Any]:
        """Send the commands and return their replies, refusals among them."""
        conn = self._conn
        await conn.send_packed_command(conn.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await conn.read_response())
            except ResponseError as exc:
                replies.append(refusal(exc))
        return replies

    async def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open, nothing unasked came, it is not too old."""
        if is_outlived(self._target, self._made_at, now):
            return False
        try:
            return not await self._conn.can_read()
        except (RedisError, OSError):
            return False

    async def abort(self) -> None:
        """Close the socket at once."""
        await self._conn.disconnect(nowait=True)

    async def close(self) -> None:
        """Close it in good order."""
        await self._conn.disconnect()


class AsyncRedisDialler:
    """Makes connections to one server."""

    def __init__(self, target: Target, route: AsyncRoute, timeout: float) -> None:
        self._target = target
        self._route = route
        self._timeout = timeout
        self._protocol = NEWEST_PROTOCOL

    async def __call__(self, limit: Limit) -> AsyncRedisLink:
        """Return a new connection, with another password if the first one is refused."""
        auth, asked = self._target.auth, self._target.login
        login = asked if auth is None else await auth.alogin(asked)
        try:
            return await self._speak(limit, login)
        except AuthenticationError:
            if auth is None or auth.refused(login, 1) is None:
                raise
        return await self._speak(limit, await auth.alogin(asked))

    async def _speak(self, limit: Limit, login: Login) -> AsyncRedisLink:
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

    async def _connect(self, protocol: int, limit: Limit, login: Login) -> AsyncRedisLink:
        options = connection_options(self._target, protocol, login, None)  # `limit` is over all
        conn = (_TlsConnection if self._target.tls else _TcpConnection)(**options)
        now = asyncio.get_running_loop().time
        conn.connected = lambda: limit.reschedule(now() + share(self._timeout))
        conn.reached, ip = await self._route.connect(limit)
        try:
            await conn.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await conn.disconnect(nowait=True)
            raise
        return AsyncRedisLink(self._target, ip, conn)
