"""The resolver for threads."""

import socket
from typing import TYPE_CHECKING, TypeVar

from datakit.dns.addresses import Address
from datakit.dns.answer import Answer
from datakit.dns.connecting import race
from datakit.dns.ipv6 import has_ipv6
from datakit.dns.resolution import Ask
from datakit.dns.resolver_base import Key, ResolverBase, families
from datakit.errors import (
    DeadlineExceededError,
    DnsError,
    NameNotFoundError,
    NoDataError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience.deadlines import deadline
from datakit.resilience.flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Generator

    import dns.message

T = TypeVar("T")


class Resolver(ResolverBase[SingleFlight[Answer]]):
    """Names to addresses for threads, cached for as long as their TTL says."""

    _new_flights = SingleFlight[Answer]

    def lookup(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name`, from the cache while their TTL lasts.

        Any number of threads that miss one name send one query.

        Raises:
            NameNotFoundError, NoDataError: there is no such name, or no such record.
            ResolveTimeoutError, ServerFailureError: no server could say, and nothing known
                before may still be used; the message tells every server tried.
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        key = (name.lower(), rdtype)
        stored = self._stored(key)
        if stored is not None:
            return stored
        self._counters.misses += 1
        return self._flights.run(key, lambda: self._stored_meanwhile(key) or self._ask(key))

    def refresh(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name` from the servers, whatever is stored.

        Raises: as `lookup`.
        """
        key = (name.lower(), rdtype)
        self._counters.misses += 1
        return self._flights.run(key, lambda: self._ask(key))

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to, in the order to try.

        Healthy ones first, then by RFC 6724's preference, else at random so that load spreads.
        AAAA records are asked for where this machine has a route for IPv6, or there is no A.

        Raises: as `lookup`.
        """
        found: list[str] = []
        error: DnsError | None = None
        for rdtype in families(name, has_ipv6()):
            try:
                found += self.lookup(name, rdtype).records
            except NameNotFoundError:
                raise
            except DnsError as exc:
                error = exc
        if not found and isinstance(error, NoDataError):
            found += self.lookup(name, "AAAA").records
        elif not found and error is not None:
            raise error
        return self._sorted(found, port)

    def connect(self, name: str, port: int, *, timeout: float = 5.0) -> socket.socket:
        """Return a blocking socket connected to `name`, whose addresses are raced 250 ms apart.

        For TLS, wrap it with `server_hostname=name`. timeout: seconds, less inside a nearer
        `deadline`. Addresses that fail are reported.

        Raises:
            OSError: no address could be connected to; the message tells each one's error.
            DnsError, DeadlineExceededError: as `lookup`.
        """
        with deadline(timeout):
            addresses = self.addresses(name, port)
            return race(addresses, name, lambda ip: self.report_failure(name, ip))

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now; True when that cannot be found out."""
        try:
            return ip in self.lookup(name, "AAAA" if ":" in ip else "A").records
        except DnsError:
            return True

    def _ask(self, key: Key) -> Answer:
        hurried = False
        try:
            resolution = self._begin(key)
            hurried = resolution.hurried
            return self._ended(key, run(resolution.steps()))
        except (ResolveTimeoutError, ServerFailureError, DeadlineExceededError) as exc:
            error = exc
        return self._failed(key, error, hurried)


def run(steps: "Generator[Ask, dns.message.Message, T]") -> T:
    """Return what `steps` returns, sending each query that it yields."""
    ask = next(steps)
    try:
        while True:
            try:
                reply = _send(ask)
            except Exception as exc:  # noqa: BLE001 - the steps decide what it means
                ask = steps.throw(exc)
            else:
                ask = steps.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result


def _send(ask: Ask) -> "dns.message.Message":
    return ask.server.wire.query(ask.query, ask.timeout, None, 0, ask.over_tcp)
