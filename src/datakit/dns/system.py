"""A host's first address by the operating system, and datakit's own resolver once it matters.

A cold process that asks once has no use for a cache, nor for the 70 ms that dnspython takes to
import. What it needs a resolver for comes later: an address that failed, a record that moved.
"""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.dns.addresses import Address
from datakit.resilience.forks import renew_after_fork

if TYPE_CHECKING:
    from datakit.dns.resolver import Resolver
    from datakit.dns.resolver_async import AsyncResolver

SYSTEM_TTL: Final = 5.0
"""Seconds for which the operating system's answer holds, since it does not tell its TTL. Source:
RDS endpoints have one of 5 s."""

R = TypeVar("R", "Resolver", "AsyncResolver")


class _SystemFirst(ABC, Generic[R]):
    """Which of the two is asked: the system until its answer is 5 s old, or an address failed."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Ask the system again at first: in a forked child, or a process restored from a
        snapshot, nothing is worth keeping of what its parent knew."""
        self._asked_at: tuple[float, float] | None = None
        self._known: tuple[str, tuple[str, ...]] = ("", ())
        self._own: R | None = None

    def report_failure(self, name: str, ip: str) -> None:
        """Take note that connecting to `ip` failed: from now on, datakit's own resolver knows."""
        self._resolver().report_failure(name, ip)

    @property
    def _system_knows(self) -> bool:
        if self._own is not None:
            return False
        return self._asked_at is None or self._age < SYSTEM_TTL

    @property
    def _age(self) -> float:
        """Seconds since the system was asked first, also those spent frozen."""
        assert self._asked_at is not None
        monotonic, wall = self._asked_at
        return max(self._clock.monotonic() - monotonic, self._clock.wall() - wall)

    def _note_asked(self) -> None:
        if self._asked_at is None:
            self._asked_at = (self._clock.monotonic(), self._clock.wall())

    def _note_found(self, name: str, found: tuple[Address, ...]) -> tuple[Address, ...]:
        if found:
            self._known = (name, tuple(address.ip for address in found))
        return found

    def _resolver(self) -> R:
        """Return the resolver that takes over, and knows what the system said last."""
        if self._own is None:
            own = self._new_resolver()
            own._kept.adopt(*self._known)
            self._own = own
        return self._own

    @abstractmethod
    def _new_resolver(self) -> R:
        """Return the resolver that takes over."""


class SystemFirst(_SystemFirst["Resolver"]):
    """What an Engine needs of a `Resolver`, without dnspython at first."""

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to, in the order to try.

        The system's own timeouts hold for its answer, not a `deadline`.

        Raises: as `Resolver.addresses`.
        """
        found = self._from_system(name, port) if self._system_knows else ()
        return found or self._resolver().addresses(name, port)

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        return self._system_knows or self._resolver().is_current(name, ip)

    def _from_system(self, name: str, port: int) -> tuple[Address, ...]:
        self._note_asked()
        return self._note_found(name, _system_addresses(name, port))

    def _new_resolver(self) -> "Resolver":
        from datakit.dns.resolver import Resolver

        return Resolver()


class AsyncSystemFirst(_SystemFirst["AsyncResolver"]):
    """What an AsyncEngine needs of an `AsyncResolver`, without dnspython at first."""

    async def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to; as `SystemFirst.addresses`."""
        found = await self._from_system(name, port) if self._system_knows else ()
        return found or await self._resolver().addresses(name, port)

    async def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        return self._system_knows or await self._resolver().is_current(name, ip)

    async def _from_system(self, name: str, port: int) -> tuple[Address, ...]:
        """Return what the system finds in a thread that ends with its answer: a loop's executor
        would keep its own."""
        from concurrent.futures import ThreadPoolExecutor  # which no thread needs

        self._note_asked()
        thread = ThreadPoolExecutor(1)
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(thread, _system_addresses, name, port)
            return self._note_found(name, found)
        finally:
            thread.shutdown(wait=False)

    def _new_resolver(self) -> "AsyncResolver":
        from datakit.dns.resolver_async import AsyncResolver

        return AsyncResolver()


def _system_addresses(name: str, port: int) -> tuple[Address, ...]:
    """Return what the operating system finds; nothing when it finds nothing, or cannot say."""
    try:
        host = name.encode("ascii")  # for a text, Python loads its IDNA tables
    except UnicodeEncodeError:
        return ()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError:
        return ()
    return tuple(dict.fromkeys(Address(str(info[4][0]), port) for info in found))
