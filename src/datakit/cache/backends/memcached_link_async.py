"""Memcached connections of tasks."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from datakit.cache.backends.memcached_dialect import Replies
from datakit.cache.backends.memcached_link import RECEIVED_AT_ONCE
from datakit.cache.backends.url import Target
from datakit.resilience.deadlines import deadline


class AsyncMemcachedLink:
    """A connection that is made."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies = Replies()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def exchange(self, commands: list[Any]) -> list[Any]:
        """Send the commands and return their replies, refusals among them."""
        self._writer.writelines(commands)
        await self._writer.drain()
        answers: list[Any] = []
        while len(answers) < len(commands):
            data = await self._reader.read(RECEIVED_AT_ONCE)
            if not data:
                raise ConnectionResetError("memcached closed the connection")
            answers += self._replies.after(data)
        self._replies.check_end(len(commands), len(answers))
        return answers

    async def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open and nothing unasked came."""
        return not (self._reader.at_eof() or self._reader._buffer or self._writer.is_closing())  # type: ignore[attr-defined]  # StreamReader has no public look

    async def abort(self) -> None:
        """Close the socket at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it in good order."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class AsyncMemcachedDialler:
    """Makes connections to one server."""

    def __init__(self, target: Target, connect_timeout: float) -> None:
        self._target = target
        self._connect_timeout = connect_timeout

    async def __call__(self, limit: asyncio.Timeout) -> AsyncMemcachedLink:
        """Return a new connection; `limit` is set to the time that it may take."""
        now = asyncio.get_running_loop().time
        limit.reschedule(now() + deadline.bound(self._connect_timeout))
        opened = await asyncio.open_connection(self._target.host, self._target.port)
        return AsyncMemcachedLink(*opened)
