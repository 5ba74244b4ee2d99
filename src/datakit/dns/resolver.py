"""The resolver for threads."""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

from datakit._clock import MAX_WAIT
from datakit.dns.addresses import RESOLUTION_DELAY, Address
from datakit.dns.answer import Answer
from datakit.dns.connecting import race
from datakit.dns.early import Early
from datakit.dns.ipv6 import has_ipv6
from datakit.dns.question import Key, key_of
from datakit.dns.resolution import Ask, Outcome
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
        key = key_of(name, rdtype)
        stored = self._stored(key)
        if stored is not None:
            return stored
        self._counters.misses += 1
        return self._flights.run(key, lambda: self._stored_meanwhile(key) or self._ask(key))

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
            outcomes = self._pairs.run(keys[0], lambda: self._ask_pair(*keys))
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
            return race(addresses, name, lambda ip: self.report_failure(name, ip))

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
    def _pairs(self) -> SingleFlight[list[Answer | DnsError]]:
        return SingleFlight()

    def _ask_pair(self, first: Key, second: Key) -> list[Answer | DnsError]:
        """Return what comes of both, the query for the second sent before that for the first.

        Once the first has addresses, the second has 50 ms more.
        """
        self._counters.misses += 1
        later = self._begin(second)
        steps = later.steps()
        with Early(next(steps)) as early:
            outcome = _outcome(partial(self.lookup, *first))
            if isinstance(outcome, Answer) and not early.is_there(RESOLUTION_DELAY):
                return [outcome, *self._give_up_on(second)]
            return [
                outcome,
                _outcome(lambda: self._conclude(second, partial(run, steps, early.receive))),
            ]

    def _ask(self, key: Key) -> Answer:
        return self._conclude(key, lambda: run(self._begin(key).steps()))

    def _conclude(self, key: Key, work: Callable[[], Outcome]) -> Answer:
        try:
            return self._ended(key, work())
        except (ResolveTimeoutError, ServerFailureError, DeadlineExceededError) as exc:
            error = exc
        return self._failed(key, error)


def _outcome(lookup: Callable[[], Answer]) -> Answer | DnsError:
    try:
        return lookup()
    except DnsError as exc:
        return exc


def run(
    steps: "Generator[Ask, dns.message.Message, T]",
    first_reply: "Callable[[], dns.message.Message] | None" = None,
) -> T:
    """Return what `steps` returns, sending each query that it yields.

    first_reply: gets the reply to the first query, which was yielded and sent already.
    """
    receive = first_reply or partial(send, next(steps))
    try:
        while True:
            try:
                reply = receive()
            except Exception as exc:  # noqa: BLE001 - the steps decide what it means
                ask = steps.throw(exc)
            else:
                ask = steps.send(reply)
            receive = partial(send, ask)
    except StopIteration as done:
        result: T = done.value
        return result


def send(ask: Ask) -> "dns.message.Message":
    """Return the reply to one query."""
    return ask.server.wire.query(ask.query, ask.timeout, None, 0, ask.over_tcp)
