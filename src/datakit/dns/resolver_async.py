"""The resolver for asyncio tasks."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from datakit.dns.addresses import RESOLUTION_DELAY, Address
from datakit.dns.answer import CLIENT_RESPONSE, FAILURE_RECHECK, Answer
from datakit.dns.connecting_async import race
from datakit.dns.ipv6 import has_ipv6
from datakit.dns.question import Key, key_of
from datakit.dns.resolution import Ask, Outcome, Resolution
from datakit.dns.resolver_base import ResolverBase, families
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    DnsError,
    NoDataError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience.deadlines import deadline
from datakit.resilience.flight_async import AsyncSingleFlight

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    import dns.message

T = TypeVar("T")

Failure = ResolveTimeoutError | ServerFailureError | DeadlineExceededError
Settled = tuple[Outcome | None, Failure | None]


class AsyncResolver(ResolverBase[AsyncSingleFlight[Answer]]):
    """Names to addresses for asyncio tasks, cached for as long as their TTL says."""

    _new_flights = AsyncSingleFlight[Answer]

    @cached_property
    def _tasks(self) -> "set[asyncio.Task[Any]]":
        """Keeps the tasks that nobody waits for, which asyncio does not."""
        return set()

    async def lookup(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name`, from the cache while their TTL lasts.

        Any number of tasks that miss one name send one query.

        Raises:
            NameNotFoundError, NoDataError: there is no such name, or no such record.
            ResolveTimeoutError, ServerFailureError: no server could say, and nothing known
                before may still be used; the message tells every server tried.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        key = key_of(name, rdtype)
        stored = self._stored(key)
        if stored is not None:
            return stored
        self._counters.misses += 1
        try:
            return await self._flights.run(
                key, lambda: self._ask_unless_known(key), wait=self._patience(key)
            )
        except DeadlineExceededError:
            known = self._kept.known(key)
            if known is None:
                raise
            return known

    async def refresh(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name` from the servers, whatever is stored.

        Raises: as `lookup`.
        """
        key = key_of(name, rdtype)
        local = self._local(key)
        if local is not None:
            return local
        self._counters.misses += 1
        return await self._flights.run((key, "refresh"), lambda: self._ask(key))

    async def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to, in the order to try.

        Healthy ones first, then by RFC 6724's preference, else at random so that load spreads.
        AAAA records are asked for, beside A, where this machine has a route for IPv6, or there
        is no A.

        Raises: as `lookup`.
        """
        keys = [key_of(name, rdtype) for rdtype in families(name, has_ipv6())]
        if len(keys) > 1 and self._must_ask(keys[1]):
            outcomes = await self._ask_pair(*keys)
        else:
            outcomes = [await self._outcome(key) for key in keys]
        if len(keys) == 1 and isinstance(outcomes[0], NoDataError):
            outcomes.append(await self._outcome(key_of(name, "AAAA")))
        return self._sorted(self._found(outcomes), port)

    async def connect(
        self,
        name: str,
        port: int,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 - as in the twin
    ) -> socket.socket:
        """Return a non-blocking socket connected to `name`, its addresses raced 250 ms apart.

        For TLS: `asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)`.
        timeout: seconds, less inside a nearer `deadline`. Addresses that fail are reported.

        Raises:
            OSError: no address could be connected to; the message tells each one's error.
            DnsError, DeadlineExceededError: as `lookup`.
        """
        with deadline(timeout):
            addresses = await self.addresses(name, port)
            return await race(
                addresses, name, lambda address: self.report_failure(name, address.ip)
            )

    async def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now.

        True when that cannot be found out, and when the name is gone: a connection that works is
        worth more than a record.
        """
        try:
            return ip in (await self.lookup(name, "AAAA" if ":" in ip else "A")).records
        except DnsError:
            return True

    def _look_up_every(self, name: str, seconds: float) -> Callable[[], object]:
        async def poll() -> None:
            while True:
                with suppress(DnsError, ConfigError):
                    await self.addresses(name, 0)
                await asyncio.sleep(seconds)

        loop = asyncio.get_running_loop()
        task = loop.create_task(poll(), context=Context())  # no caller's deadline
        self._let_go_on(task)
        return task.cancel

    def _let_go_on(self, task: "asyncio.Task[Any]") -> None:
        """Let `task` go on without anyone."""

        def end(task: "asyncio.Task[Any]") -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # read, so that it is not logged

        self._tasks.add(task)
        task.add_done_callback(end)

    async def _ask_unless_known(self, key: Key) -> Answer:
        return self._stored_meanwhile(key) or await self._ask(key)

    async def _ask_pair(self, first: Key, second: Key) -> list[Answer | DnsError]:
        """Return what comes of both, asked for at once.

        Once the first has addresses, the second has 50 ms more. When the second's are known and
        the first's are not, the first has no longer than stale data waits.
        """
        wait_first = CLIENT_RESPONSE if self._kept.is_only_known(second, first) else None
        tasks = [asyncio.create_task(self._outcome(key)) for key in (first, second)]
        try:
            outcomes = [await self._in_time(first, tasks[0], wait_first, FAILURE_RECHECK)]
            wait_second = RESOLUTION_DELAY if isinstance(outcomes[0], Answer) else None
            return [
                *outcomes,
                await self._in_time(second, tasks[1], wait_second, self._deadline),
            ]
        except BaseException:
            for task in tasks:
                task.cancel()
                self._let_go_on(task)
            raise

    async def _in_time(
        self,
        key: Key,
        task: "asyncio.Task[Answer | DnsError]",
        seconds: float | None,
        hold: float,
    ) -> Answer | DnsError:
        """Return what the task finds, or let it go on and leave its name alone for so long."""
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
        self._let_go_on(task)
        try:
            return self._kept.give_up_on(key, self._clock.monotonic() + hold)
        except ResolveTimeoutError as exc:
            return exc

    async def _outcome(self, key: Key) -> Answer | DnsError:
        try:
            return await self.lookup(*key)
        except DnsError as exc:
            return exc

    async def _ask(self, key: Key) -> Answer:
        resolution = self._begin(key)
        if resolution.answer_by == resolution.until:
            return self._landed(key, resolution, *(await _settled(run(resolution.steps()))))
        going = asyncio.create_task(_settled(run(resolution.steps())))
        try:
            await asyncio.wait([going], timeout=resolution.answer_by - self._clock.monotonic())
            instead = None if going.done() else self._kept.instead(key, resolution.until)
            if instead is None:
                return self._landed(key, resolution, *(await going))
        except BaseException:
            going.cancel()
            self._let_go_on(going)
            raise
        going.add_done_callback(lambda task: self._landed_late(key, resolution, task))
        self._let_go_on(going)
        return instead

    def _landed(
        self, key: Key, resolution: Resolution, outcome: Outcome | None, error: Failure | None
    ) -> Answer:
        if error is None:
            assert outcome is not None
            try:
                return self._ended(key, outcome, resolution)
            except ServerFailureError as exc:
                error = exc
        return self._failed(key, error)

    def _landed_late(self, key: Key, resolution: Resolution, task: "asyncio.Task[Settled]") -> None:
        """Keep what a lookup that was left has found, unless it is known better by now."""
        if self._kept.is_outdated(key, resolution.begun_at):
            return
        entry = self._kept.get(key)
        outcome = None if task.cancelled() else task.result()[0]
        if outcome is not None:
            with suppress(DnsError):
                self._ended(key, outcome, resolution)
        elif entry is not None and entry.is_known:
            # The event loop may have ended, which says nothing of the servers.
            self._kept.put_off(entry, 0.0 if task.cancelled() else FAILURE_RECHECK)


async def _settled(work: "Coroutine[Any, Any, Outcome]") -> Settled:
    """Return what `work` returns, or its failure."""
    try:
        return await work, None
    except (ResolveTimeoutError, ServerFailureError, DeadlineExceededError) as exc:
        return None, exc


async def run(steps: "Generator[Ask, dns.message.Message, T]") -> T:
    """Return what `steps` returns, sending each query that it yields."""
    ask = next(steps)
    try:
        while True:
            try:
                reply = await _send(ask)
            except Exception as exc:  # noqa: BLE001 - the steps decide what it means
                ask = steps.throw(exc)
            else:
                ask = steps.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result


async def _send(ask: Ask) -> "dns.message.Message":
    import dns.asyncbackend

    backend = dns.asyncbackend.get_backend("asyncio")
    return await ask.server.wire.async_query(ask.query, ask.timeout, None, 0, ask.over_tcp, backend)
