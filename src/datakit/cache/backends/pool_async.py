"""Connections of tasks to one server, each exchange under one time limit: `pool`, awaited."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.limit import Limit
from datakit.cache.backends.pool import MAX_CONNECTIONS
from datakit.cache.backends.route import LOOK_EVERY, AsyncRoute
from datakit.cache.backends.share import QUEUE_FOR, busy, share
from datakit.resilience.per_loop import PerLoop


class AsyncLink(Protocol):
    """One connection."""

    looked_at: float
    """The loop's second at which its server's name was seen to lead there."""
    ip: str
    """Where it leads."""

    async def exchange(self, commands: list[Any]) -> list[Any]:
        """Send the commands and return their replies, refusals among them."""
        ...

    async def is_usable(self, now: float) -> bool:
        """Return whether it may serve on: it is open, nothing unasked came, it is not too old."""
        ...

    async def abort(self) -> None:
        """Close the socket at once."""

    async def close(self) -> None:
        """Close it in good order."""


class _LoopPool:
    """The connections of one event loop; sockets and waits belong to it alone."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONNECTIONS)
        self.idle: list[AsyncLink] = []


class AsyncPool:
    """At most 50 connections an event loop, the last one used first.

    dial: makes a connection along `route`, and bounds the time that takes. timeout: seconds of an
    exchange; half of what is left when the enclosing `deadline` is nearer. The wait for a free
    connection comes before that, as long as the server answers the others. name: the server's,
    for errors.
    """

    def __init__(
        self,
        dial: Callable[[Limit], Awaitable[AsyncLink]],
        route: AsyncRoute,
        timeout: float,
        name: str,
    ) -> None:
        self._dial = dial
        self._route = route
        self._timeout = timeout
        self._name = name
        self._pools = PerLoop(_LoopPool)

    async def exchange(self, commands: list[Any], whole: bool = False) -> list[Any]:
        """Return the server's replies. whole: whether all of a nearer `deadline` may be taken.

        Raises:
            OSError or the driver's error: it could not be asked in time.
            DeadlineExceededError: so little is left of the enclosing `deadline` that this says
                nothing of the server.
        """
        pool = self._pools.own()
        if pool.places.locked():
            await self._wait_in_line(pool, whole)
        else:
            await pool.places.acquire()
        try:
            return await self._in_place(pool, commands, whole)
        finally:
            pool.places.release()

    async def _wait_in_line(self, pool: _LoopPool, whole: bool) -> None:
        """Take a place, once it is our turn."""
        seconds = share(QUEUE_FOR, whole=whole)
        try:
            async with asyncio.timeout(seconds):
                await pool.places.acquire()
        except TimeoutError as exc:
            raise busy(seconds) from exc
        if self._route.home.is_lost:
            pool.places.release()
            raise TimeoutError("the server failed others that were before us")

    async def _in_place(self, pool: _LoopPool, commands: list[Any], whole: bool) -> list[Any]:
        loop = asyncio.get_running_loop()
        given = share(self._timeout, whole=whole)
        limit = Limit(loop.time() + given)
        try:
            with limit:
                link = await self._idle_link(pool, loop.time())
                if link is None:
                    link = await self._dial(limit)
                    given = share(self._timeout, whole=whole)
                    limit.reschedule(loop.time() + given)
                return await self._exchange(pool, link, commands)
        except Exception as exc:
            self._route.judge(exc, given, self._timeout)
            if isinstance(exc, TimeoutError) and limit.is_over:
                raise TimeoutError(f"no answer from {self._name} in time") from exc
            raise

    async def _exchange(self, pool: _LoopPool, link: AsyncLink, commands: list[Any]) -> list[Any]:
        try:
            replies = await link.exchange(commands)
        except BaseException:  # a reply may still come: nobody else must read it
            await link.abort()
            raise
        home = self._route.home
        if home.losses or home.silence:
            home.answered()
        pool.idle.append(link)
        for reply in replies:
            if type(reply) is RefusedError and reply.spent and self._route.is_wrong(link.ip):
                await self._drop(pool)
        return replies

    async def _idle_link(self, pool: _LoopPool, now: float) -> AsyncLink | None:
        """Return a connection that waits for work, None when there is none in order."""
        while pool.idle:
            link = pool.idle.pop()
            try:
                if await self._may_serve(link, now):
                    return link
            except BaseException:
                await link.abort()
                raise
            await link.abort()
        return None

    async def _may_serve(self, link: AsyncLink, now: float) -> bool:
        """Return whether it is in order, and leads to where all connections do."""
        if link.ip != self._route.home.ip:
            return False
        if not await link.is_usable(now):
            return False
        if now > link.looked_at + LOOK_EVERY:
            link.looked_at = now
            return await self._route.leads_to(link.ip, now)
        return True

    @staticmethod
    async def _drop(pool: _LoopPool) -> None:
        while pool.idle:
            await pool.idle.pop().abort()

    async def close(self) -> None:
        """Close the running loop's connections that wait for work."""
        idle = self._pools.own().idle
        while idle:
            link = idle.pop()
            with suppress(Exception):
                async with asyncio.timeout(self._timeout):  # TLS waits for the peer's farewell
                    await link.close()
