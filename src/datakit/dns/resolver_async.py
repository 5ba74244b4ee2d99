"""The resolver for asyncio tasks."""

from functools import cached_property
from typing import TYPE_CHECKING

from datakit.dns.answer import Answer
from datakit.dns.config import configured
from datakit.dns.resolution import Absent, Found, resolution
from datakit.dns.resolver_base import Address, ResolverBase
from datakit.errors import DnsError, NoDataError, ResolveTimeoutError, ServerFailureError
from datakit.resilience.flight_async import AsyncSingleFlight

if TYPE_CHECKING:
    import dns.asyncresolver


class AsyncResolver(ResolverBase[AsyncSingleFlight[Answer]]):
    """Names to addresses for asyncio tasks, cached for as long as their TTL says."""

    _new_flights = AsyncSingleFlight[Answer]

    async def lookup(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name`, from the cache while their TTL lasts.

        Any number of tasks that miss one name send one query.

        Raises:
            NameNotFoundError, NoDataError: there is no such name, or no such record.
            ResolveTimeoutError, ServerFailureError: no server could say, and nothing known
                before may still be used.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        key = (name.lower(), rdtype)
        return self._stored(key) or await self._flights.run(key, lambda: self._ask(key))

    async def refresh(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name` from the servers, whatever is stored.

        Raises: as `lookup`.
        """
        key = (name.lower(), rdtype)
        return await self._flights.run(key, lambda: self._ask(key))

    async def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to: its A records, without any its AAAA.

        Raises: as `lookup`.
        """
        try:
            answer = await self.lookup(name, "A")
        except NoDataError:
            answer = await self.lookup(name, "AAAA")
        return tuple(Address(ip, port) for ip in answer.records)

    async def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now; True when that cannot be found out."""
        try:
            return ip in (await self.lookup(name, "AAAA" if ":" in ip else "A")).records
        except DnsError:
            return True

    async def _ask(self, key: tuple[str, str]) -> Answer:
        try:
            outcome = await self._resolve(*key)
        except (ResolveTimeoutError, ServerFailureError) as exc:
            return self._failed(key, exc)
        return self._store(key, outcome)

    async def _resolve(self, name: str, rdtype: str) -> Found | Absent:
        stub = self._stub
        lifetime = self._lifetime((name, rdtype))
        steps = resolution(name, rdtype, self._rules)
        target = next(steps)
        try:
            while True:
                try:
                    reply = await stub.resolve(
                        target, rdtype, raise_on_no_answer=False, lifetime=lifetime, search=True
                    )
                except Exception as exc:  # noqa: BLE001 - the steps decide what it means
                    target = steps.throw(exc)
                else:
                    target = steps.send(reply)
        except StopIteration as done:
            outcome: Found | Absent = done.value
            return outcome

    @cached_property
    def _stub(self) -> "dns.asyncresolver.Resolver":
        import dns.asyncresolver

        fresh = dns.asyncresolver.Resolver(configure=self._servers is None)
        return configured(fresh, self._servers, self._search, self._timeout)
