"""The resolver for threads."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

from cachebox import LRUCache

from datakit._clock import MAX_WAIT
from datakit.dns.addresses import RESOLUTION_DELAY, Address
from datakit.dns.answer import CLIENT_RESPONSE, FAILURE_RECHECK, Answer
from datakit.dns.connecting import race
from datakit.dns.inquiry import Inquiry
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
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Generator

    import dns.message

T = TypeVar("T")

MAX_LEFT = 100
"""Lookups that may go on without a caller."""


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
        key = key_of(name, rdtype)
        stored = self._stored(key)
        if stored is not None:
            return stored
        self._counters.misses += 1
        return self._shared(key, lambda: self._stored_meanwhile(key) or self._ask(key))

    def refresh(self, name: str, rdtype: str = "A") -> Answer:
        """Return the records of `name` from the servers, whatever is stored.

        Raises: as `lookup`.
        """
        key = key_of(name, rdtype)
        local = self._local(key)
        if local is not None:
            return local
        self._counters.misses += 1
        return self._flights.run((key, "refresh"), lambda: self._ask(key))

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to, in the order to try.

        Healthy ones first, then by RFC 6724's preference, else at random so that load spreads.
        AAAA records are asked for, beside A, where this machine has a route for IPv6, or there
        is no A.

        Raises: as `lookup`.
        """
        keys = [key_of(name, rdtype) for rdtype in families(name, has_ipv6())]
        if len(keys) > 1 and self._must_ask(keys[1]):
            outcomes = self._ask_pair(*keys)
        else:
            outcomes = [_outcome(partial(self.lookup, *key)) for key in keys]
        if len(keys) == 1 and isinstance(outcomes[0], NoDataError):
            outcomes.append(_outcome(partial(self.lookup, name, "AAAA")))
        return self._sorted(self._found(outcomes), port)

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
            return race(addresses, name, lambda address: self.report_failure(name, address.ip))

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now.

        True when that cannot be found out, and when the name is gone: a connection that works is
        worth more than a record.
        """
        try:
            return ip in self.lookup(name, "AAAA" if ":" in ip else "A").records
        except DnsError:
            return True

    def _look_up_every(self, name: str, seconds: float) -> Callable[[], object]:
        stop = Event()

        def poll() -> None:
            while True:
                with suppress(DnsError, ConfigError):
                    self.addresses(name, 0)
                if stop.wait(min(seconds, MAX_WAIT)):
                    return

        Thread(target=poll, name="datakit-dns-watch", daemon=True).start()
        return stop.set

    @cached_property
    def _left(self) -> LRUCache[Key, tuple[Resolution, Inquiry[Outcome]]]:
        """The lookups whose callers went on without them, each with a socket."""
        return LRUCache(MAX_LEFT)

    def _shared(self, key: Key, work: Callable[[], Answer]) -> Answer:
        """Return what `work` finds in whichever thread runs it, or what is known if that is late.

        Raises: as `lookup`.
        """
        try:
            return self._flights.run(key, work, wait=self._patience(key))
        except DeadlineExceededError:
            known = self._kept.known(key)
            if known is None:
                raise
            return known

    def _ask_pair(self, first: Key, second: Key) -> list[Answer | DnsError]:
        """Return what comes of both, the query for the second sent before that for the first.

        Once the first has addresses, the second has 50 ms more. When the second's are known and
        the first's are not, the first has no longer than stale data waits.
        """
        outcomes: list[Answer | DnsError] = []

        def look_up_first() -> None:
            if not self._kept.is_only_known(second, first):
                outcomes.append(_outcome(partial(self.lookup, *first)))
                return
            try:
                with deadline(CLIENT_RESPONSE):
                    outcomes.append(_outcome(partial(self.lookup, *first)))
            except DeadlineExceededError:
                until = self._clock.monotonic() + FAILURE_RECHECK
                outcomes.append(_outcome(lambda: self._kept.give_up_on(first, until)))

        def ask_both() -> Answer:
            self._counters.misses += 1
            resolution, inquiry = self._inquire(second)
            look_up_first()
            if not isinstance(outcomes[0], Answer) or not inquiry.is_sent:
                return self._conclude(second, resolution, inquiry)
            found = self._advance(second, resolution, inquiry, RESOLUTION_DELAY)
            if found is not None:
                return found
            self._left[second] = (resolution, inquiry)
            return self._kept.give_up_on(second, resolution.until)

        found = _outcome(lambda: self._shared(second, ask_both))
        if not outcomes:
            look_up_first()
        return [outcomes[0], found]

    def _ask(self, key: Key) -> Answer:
        return self._conclude(key, *self._inquire(key))

    def _inquire(self, key: Key) -> tuple[Resolution, Inquiry[Outcome]]:
        resolution = self._begin(key)
        self._left.pop(key, None)  # what was under way is superseded
        return resolution, Inquiry(resolution.steps())

    def _conclude(self, key: Key, resolution: Resolution, inquiry: Inquiry[Outcome]) -> Answer:
        """Return what the lookup comes to, or what is known when that takes too long.

        Raises: as `lookup`.
        """
        seconds: float | None = None
        if resolution.answer_by < resolution.until:
            patience = resolution.answer_by - self._clock.monotonic()
            answer = self._advance(key, resolution, inquiry, patience)
            if answer is not None:
                return answer
            instead = self._kept.instead(key, resolution.until)
            if instead is not None:
                self._left[key] = (resolution, inquiry)
                return instead
            seconds = deadline.remaining()  # what was known has gone meanwhile
        answer = self._advance(key, resolution, inquiry, seconds)
        if answer is None:
            raise over(f"resolving {key[0]} {key[1]}")
        return answer

    def _late(self, key: Key) -> Answer | None:
        resolution, inquiry = self._left.pop(key, None) or (None, None)
        if resolution is None or inquiry is None or not inquiry.is_own:
            return None
        if self._kept.is_outdated(key, resolution.begun_at):
            return None
        if self._clock.monotonic() >= resolution.until and not inquiry.has_reply:
            return None
        answer = self._advance(key, resolution, inquiry, 0.0, is_late=True)
        if answer is None:
            self._left[key] = (resolution, inquiry)
        return answer

    def _advance(
        self,
        key: Key,
        resolution: Resolution,
        inquiry: Inquiry[Outcome],
        seconds: float | None,
        *,
        is_late: bool = False,
    ) -> Answer | None:
        """Return what the lookup comes to; None when it takes longer than `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        try:
            outcome = inquiry.advance(until)
            if outcome is None:
                return None
            return self._ended(key, outcome, resolution, is_late=is_late)
        except (ResolveTimeoutError, ServerFailureError, DeadlineExceededError) as exc:
            error = exc
        return self._failed(key, error)


def _outcome(lookup: Callable[[], Answer]) -> Answer | DnsError:
    try:
        return lookup()
    except DnsError as exc:
        return exc


def run(steps: "Generator[Ask, dns.message.Message, T]") -> T:
    """Return what `steps` returns, sending each query that it yields."""
    result = Inquiry(steps).advance()
    assert result is not None
    return result
