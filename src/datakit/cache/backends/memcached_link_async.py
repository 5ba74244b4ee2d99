"""Memcached connections of tasks."""

import asyncio
from contextlib import suppress
from typing import Any

from datakit.cache.backends.limit import Limit
from datakit.cache.backends.memcached_dialect import Replies
from datakit.cache.backends.memcached_link import RECEIVED_AT_ONCE
from datakit.cache.backends.route import AsyncRoute


class AsyncMemcachedLink:
    """A connection that is made."""

    def __init__(self, ip: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ip = ip
        self._reader = reader
        self._writer = writer
        self._replies = Replies()
        self.looked_at = asyncio.get_running_loop().time()

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

    def __init__(self, route: AsyncRoute) -> None:
        self._route = route

    async def __call__(self, limit: Limit) -> AsyncMemcachedLink:
        """Return a new connection; `limit` is set to the time that it may take."""
        reached = await self._route.connect(limit)
        return AsyncMemcachedLink(reached.ip, *await asyncio.open_connection(sock=reached.sock))
