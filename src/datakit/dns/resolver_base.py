"""What `Resolver` and `AsyncResolver` share: when to ask, and what becomes of it. No I/O."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from cachebox import LRUCache

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock, uniform
from datakit.dns.addresses import Address, ordered
from datakit.dns.allowed import AllowedNetworks
from datakit.dns.answer import (
    CLIENT_RESPONSE,
    FAILURE_HOLD,
    FAILURE_RECHECK,
    SUSPECT_RECHECK,
    Answer,
    Freshness,
    TtlRules,
    decide,
    failure_hold,
)
from datakit.dns.config import Configuration
from datakit.dns.counters import Counters, ResolverStats
from datakit.dns.hosts import literal, local_records
from datakit.dns.kept import LATE_TTL, Kept, again, kind, use
from datakit.dns.question import Key, key_of
from datakit.dns.resolution import Absent, Found, Outcome, Resolution
from datakit.dns.watchers import TYPES, Change, Watchers
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    DnsError,
    NoDataError,
    ServerFailureError,
)
from datakit.resilience import checks
from datakit.resilience.deadlines import deadline as enclosing
from datakit.resilience.deadlines import over

HOSTS_TTL = 60.0
"""Seconds before the hosts file is read again for a name."""

UNHEALTHY_FOR = 30.0
"""Seconds for which an address that failed is tried last."""

MAX_UNHEALTHY = 1_000
"""Failed addresses remembered."""

F = TypeVar("F")
"""The kind of single flight that a twin uses."""


class ResolverBase(ABC, Generic[F]):
    """A TTL cache in front of DNS servers.

    servers: "address" or "address:port", "tls://address:port#name" or "https://host/path"; None
        for those of resolv.conf, which is read again when it changes.
    zones: servers for the names of a zone, as for a private hosted zone; the most specific zone
        that holds a name is asked, and what it says is final.
    min_ttl, max_ttl: seconds, bounds on the servers' TTLs. negative_max_ttl: seconds that an
        absence is believed at most. max_stale: seconds past its TTL that an answer is still used
        when no server answers. prefetch: whether a caller in the last tenth of a TTL (of 10 s
        or more) asks again.
    cache_size: answers kept. timeout: seconds a server may take. deadline: seconds a lookup may
        take in all. hosts: whether the hosts file is read. search: domains tried for a short
        name; None for those of resolv.conf, when `servers` is None.
    allowed_networks: networks such as "10.0.0.0/8"; addresses outside all of them are dropped
        from answers (DNS rebinding). None for all.

    Raises:
        ConfigError: an argument is of no use; the message names it.
    """

    _new_flights: type[F]

    def __init__(
        self,
        servers: Sequence[str] | None = None,
        *,
        zones: Mapping[str, Sequence[str]] | None = None,
        min_ttl: float = 0.0,
        max_ttl: float = 300.0,
        negative_max_ttl: float = 5.0,
        max_stale: float = 3600.0,
        prefetch: bool = True,
        cache_size: int = 10_000,
        timeout: float = 2.0,
        deadline: float = 5.0,
        hosts: bool = True,
        search: Sequence[str] | None = None,
        allowed_networks: Sequence[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = {name: value for name, value in locals().items() if name != "self"}
        owner = type(self).__name__
        for name, value in (
            ("min_ttl", min_ttl), ("max_ttl", max_ttl), ("negative_max_ttl", negative_max_ttl),
            ("max_stale", max_stale),
        ):  # fmt: skip
            checks.seconds(owner, name, value)
        checks.seconds(owner, "timeout", timeout, above_zero=True)
        checks.seconds(owner, "deadline", deadline, above_zero=True)
        checks.count(owner, "cache_size", cache_size)
        if min_ttl > max_ttl:
            raise ConfigError(
                f"{owner}(min_ttl={min_ttl!r}): must be max_ttl ({max_ttl!r}) or less"
            )
        self._configuration = Configuration(servers, zones, search)
        self._rules = TtlRules(min_ttl, max_ttl, negative_max_ttl)
        self._timeout = timeout
        self._deadline = deadline
        self._hosts_file = Path("/etc/hosts" if hosts else "/dev/null")
        self._allowed = AllowedNetworks(owner, allowed_networks)
        self._clock = clock
        self._flights = self._new_flights()
        self._unhealthy: LRUCache[str, float] = LRUCache(MAX_UNHEALTHY)
        self._watchers = Watchers()
        self._counters = Counters()
        self._kept = Kept(
            cache_size, max_stale=max_stale, prefetch=prefetch, clock=clock,
            counters=self._counters,
        )  # fmt: skip
        self._flushed_at = -math.inf

    @classmethod
    def like(cls, other: "ResolverBase[Any]") -> Self:
        """Return `other` when it is one of this kind, else one that is set up as `other` is."""
        return other if isinstance(other, cls) else cls(**other._settings)

    def flush(self) -> None:
        """Forget every answer, and whatever is under way."""
        self._flushed_at = self._clock.monotonic()
        self._kept.clear()

    def stats(self) -> ResolverStats:
        """Return the counts since the resolver was made."""
        groups = self._configuration.groups()
        return self._counters.stats(server for group in groups for server in group.servers)

    def report_failure(self, name: str, ip: str) -> None:
        """Say that a connection to `ip`, an address of `name`, failed.

        The address is tried last for 30 s. The next lookup asks the servers again, however long
        the TTL: at most ten times a second, and once a second while none of them answers.
        """
        self._unhealthy[ip] = self._clock.monotonic() + UNHEALTHY_FOR
        self._kept.suspect(key_of(name, kind(ip)))

    def watch(
        self,
        name: str,
        callback: Callable[[Change], object],
        *,
        every: float | None = None,
    ) -> Callable[[], None]:
        """Call `callback(change)` whenever a lookup finds another set of addresses for `name`.

        It is called in the thread or task of that lookup and must not block; one that raises is
        logged. Return the function that ends it.

        every: seconds between lookups for its sake, in a thread of its own (a task of the running
        event loop for an AsyncResolver). None: nothing is looked up but what others look up.

        Raises:
            ConfigError: `every` is no positive number.
        """
        if every is not None:
            checks.seconds("watch", "every", every, above_zero=True)
        keys = [key_of(name, rdtype) for rdtype in TYPES]
        known = {
            key: frozenset(entry.outcome.records)
            for key in keys
            if (entry := self._kept.get(key)) and isinstance(entry.outcome, Answer)
        }
        unwatch = self._watchers.add(keys[0][0], callback, known)
        if every is None:
            return unwatch
        stop = self._look_up_every(name, every)

        def end() -> None:
            stop()
            unwatch()

        return end

    @abstractmethod
    def _look_up_every(self, name: str, seconds: float) -> Callable[[], object]:
        """Look `name` up again and again; return what ends that."""

    def _stored(self, key: Key) -> Answer | None:
        """Return the answer to use without asking, None when the servers must be asked.

        Raises:
            DnsError: the stored outcome is an absence.
        """
        entry = self._kept.get(key)
        if entry is None:
            return self._local(key)
        now = self._clock.monotonic()
        freshness = decide(entry, now, self._clock.wall())
        if freshness is Freshness.FRESH:
            due = now >= entry.prefetch_at and now >= entry.asking_until
            if due and enclosing.remaining() != 0:
                entry.asking_until = now + self._deadline  # this caller asks; the others need not
                return None
            self._counters.hits += 1
            if isinstance(entry.outcome, Answer):
                return entry.outcome
            late = None if entry.is_known else self._late(key)
            if late is not None:
                return late
            raise again(entry.outcome)
        if freshness is Freshness.STALE:
            failed_before = entry.retry_at > 0
            waits = now < entry.retry_at or (failed_before and now < entry.asking_until)
            if waits or enclosing.remaining() == 0:
                return self._late(key) or self._kept.stale(key, entry)
            entry.asking_until = now + self._deadline
        return self._local(key)

    def _late(self, key: Key) -> Answer | None:
        """Return what has come of a lookup that its caller left, when it must be looked for."""
        return None

    def _must_ask(self, key: Key) -> bool:
        """Return whether a lookup of `key` would ask the servers."""
        entry = self._kept.get(key)
        if entry is None:
            return local_records(*key, self._hosts_file) is None
        now = self._clock.monotonic()
        fresh = decide(entry, now, self._clock.wall()) is Freshness.FRESH
        return not fresh and now >= max(entry.retry_at, entry.asking_until)

    def _stored_meanwhile(self, key: Key) -> Answer | None:
        """Return what another lookup has found since `_stored`; None when there was none.

        Raises:
            DnsError: it found an absence.
        """
        entry = self._kept.get(key)
        now = self._clock.monotonic()
        if entry is None or now < entry.asking_until:
            return None
        fresh = decide(entry, now, self._clock.wall()) is Freshness.FRESH
        return use(entry.outcome) if fresh else None

    def _local(self, key: Key) -> Answer | None:
        records = local_records(*key, self._hosts_file)
        if records is None:
            return None
        self._counters.hits += 1
        if not records:
            raise NoDataError(f"{key[0]} has no {key[1]} record")
        found = self._allowed.part_of(key, Found(records, (), HOSTS_TTL, "the hosts file"))
        self._watchers.found(key, frozenset(found.records))
        return self._kept.keep(key, replace(found, server=""), "hosts")

    def _begin(self, key: Key) -> Resolution:
        """Return the lookup of `key` to carry out.

        Raises:
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        self._counters.asked += 1
        now = self._clock.monotonic()
        own = patience = self._deadline
        if self._kept.usable(key) is not None:
            left = enclosing.remaining()
            half = own if left is None else left / 2  # the rest is for using the answer
            patience = enclosing.bound(min(own, CLIENT_RESPONSE, half))
        else:
            own = patience = enclosing.bound(own)
        return Resolution(
            name=key[0],
            rdtype=key[1],
            configuration=self._configuration,
            timeout=self._timeout,
            until=now + own,
            answer_by=now + patience,
            clock=self._clock,
            begun_at=now,
            begun_at_wall=self._clock.wall(),
        )

    def _ended(
        self, key: Key, outcome: Outcome, resolution: Resolution, *, is_late: bool = False
    ) -> Answer:
        """Keep what the servers said and return it as the answer.

        What another lookup that was begun later has found counts more. is_late: the answer may
        have lain unread since the lookup was begun; so it has where the process was frozen.

        Raises:
            DnsError: it is an absence, or nothing of it may be used.
        """
        known = self._kept.get(key)
        if known is not None and self._kept.is_outdated(key, resolution.begun_at):
            return use(known.outcome)
        suspected_at = known.suspected_at if known is not None else -math.inf
        if suspected_at <= resolution.begun_at:
            suspected_at = -math.inf
        flushed = resolution.begun_at < self._flushed_at
        if isinstance(outcome, Absent):
            error = outcome.error
            self._kept.insert(key, error, 0.0 if flushed else self._rules.negative(outcome.ttl))
            self._watchers.found(key, frozenset())
            raise again(error)
        outcome = self._allowed.part_of(key, outcome)
        age = resolution.age if is_late or resolution.age > 2 * self._deadline else 0.0
        ttl = 0.0 if flushed else self._rules.positive(outcome.ttl)
        kept = replace(outcome, ttl=max(ttl - age, min(ttl, LATE_TTL)))
        answer = self._kept.keep(key, kept, "network", suspected_at)
        self._watchers.found(key, frozenset(answer.records))
        events.emit(events.NameResolved, *key, answer.records, kept.ttl)
        return answer

    def _failed(self, key: Key, error: DnsError | DeadlineExceededError) -> Answer:
        """Return the last known answer, when there is one that may still be used.

        Raises:
            DnsError: `error`, when there is none.
            DeadlineExceededError: there is none, and the caller's own deadline is over, which
                says nothing of the servers.
        """
        hurried = enclosing.remaining() == 0
        entry = self._kept.usable(key)
        if entry is not None:
            soon = hurried or entry.suspect
            return self._kept.go_on(key, entry, SUSPECT_RECHECK if soon else FAILURE_RECHECK)
        self._counters.failures += 1
        if isinstance(error, DeadlineExceededError):
            raise error
        if hurried:
            raise over(f"resolving {key[0]} {key[1]}") from error
        before = self._kept.get(key)
        failures = 1 + (before.failures if before is not None else 0)
        grows = isinstance(error, ServerFailureError)
        self._kept.insert(
            key, error, failure_hold(failures) if grows else FAILURE_HOLD, failures=failures
        )
        raise error

    def _patience(self, key: Key) -> float | None:
        """Return the seconds to wait for another's lookup; None where nothing is known."""
        left = enclosing.remaining()
        if left is None or self._kept.usable(key) is None:
            return None
        return min(CLIENT_RESPONSE, left / 2)

    @staticmethod
    def _found(outcomes: Sequence[Answer | DnsError]) -> list[str]:
        """Return the addresses of both families; one that has some is enough.

        Raises:
            DnsError: neither has; one that is absent says less than one that failed.
        """
        found = [ip for answer in outcomes if isinstance(answer, Answer) for ip in answer.records]
        if found:
            return found
        errors = [error for error in outcomes if isinstance(error, DnsError)]
        raise min(errors, key=lambda error: isinstance(error, NoDataError))

    def _sorted(self, ips: Iterable[str], port: int) -> tuple[Address, ...]:
        now = self._clock.monotonic()
        unhealthy = self._unhealthy

        def is_healthy(ip: str) -> bool:
            until = unhealthy.get(ip)
            return until is None or now >= until

        order = ordered(list(ips), is_healthy, lambda: uniform(0.0, 1.0))
        return tuple(Address(ip, port) for ip in order)


def families(name: str, has_ipv6: bool) -> tuple[str, ...]:
    """Return the record types to ask for, all of which may have addresses of `name`."""
    version = literal(name)
    if version is not None:
        return (version,)
    return ("A", "AAAA") if has_ipv6 else ("A",)
