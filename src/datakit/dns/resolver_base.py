"""What `Resolver` and `AsyncResolver` share: the cache and every decision, no I/O."""

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
    PREFETCH_FROM,
    PREFETCH_LEAST_TTL,
    SUSPECT_RECHECK,
    Answer,
    Entry,
    Freshness,
    TtlRules,
    decide,
    failure_hold,
)
from datakit.dns.config import Configuration
from datakit.dns.counters import Counters, ResolverStats
from datakit.dns.hosts import literal, local_records
from datakit.dns.question import Key, key_of
from datakit.dns.resolution import Absent, Found, Outcome, Resolution
from datakit.dns.watchers import TYPES, Change, Watchers
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    DnsError,
    NoDataError,
    ResolveTimeoutError,
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

LATE_TTL = 0.001
"""Seconds for which an answer holds that was over before it was read: then it is stale data."""

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
        self._rules = TtlRules(min_ttl, max_ttl, negative_max_ttl, max_stale)
        self._prefetch = prefetch
        self._timeout = timeout
        self._deadline = deadline
        self._hosts_file = Path("/etc/hosts" if hosts else "/dev/null")
        self._allowed = AllowedNetworks(owner, allowed_networks)
        self._clock = clock
        self._flights = self._new_flights()
        self._cache: LRUCache[Key, Entry] = LRUCache(cache_size)
        self._unhealthy: LRUCache[str, float] = LRUCache(MAX_UNHEALTHY)
        self._watchers = Watchers()
        self._counters = Counters()
        self._flushed_at = -math.inf

    @classmethod
    def like(cls, other: "ResolverBase[Any]") -> Self:
        """Return `other` when it is one of this kind, else one that is set up as `other` is."""
        return other if isinstance(other, cls) else cls(**other._settings)

    def flush(self) -> None:
        """Forget every answer, and whatever is under way."""
        self._flushed_at = self._clock.monotonic()
        self._cache.clear()

    def stats(self) -> ResolverStats:
        """Return the counts since the resolver was made."""
        groups = self._configuration.groups()
        return self._counters.stats(server for group in groups for server in group.servers)

    def report_failure(self, name: str, ip: str) -> None:
        """Say that a connection to `ip`, an address of `name`, failed.

        The address is tried last for 30 s. The next lookup asks the servers again, however long
        the TTL: at most ten times a second, and once a second while none of them answers.
        """
        now = self._clock.monotonic()
        self._unhealthy[ip] = now + UNHEALTHY_FOR
        entry = self._cache.get(key_of(name, _kind(ip)))
        if entry is not None and isinstance(entry.outcome, Answer):
            entry.suspected_at = now
            entry.retry_at = min(entry.retry_at, now + SUSPECT_RECHECK)

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
            if (entry := self._cache.get(key)) and isinstance(entry.outcome, Answer)
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
        entry = self._cache.get(key)
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
            raise _again(entry.outcome)
        if freshness is Freshness.STALE:
            failed_before = entry.retry_at > 0
            waits = now < entry.retry_at or (failed_before and now < entry.asking_until)
            if waits or enclosing.remaining() == 0:
                return self._late(key) or self._stale(key, entry)
            entry.asking_until = now + self._deadline
        return self._local(key)

    def _late(self, key: Key) -> Answer | None:
        """Return what has come of a lookup that its caller left, when it must be looked for."""
        return None

    def _is_outdated(self, key: Key, begun_at: float) -> bool:
        """Return whether what is known of `key` is newer than a lookup begun at that second."""
        entry = self._cache.get(key)
        return entry is not None and entry.is_known and entry.fetched_at > begun_at

    def _must_ask(self, key: Key) -> bool:
        """Return whether a lookup of `key` would ask the servers."""
        entry = self._cache.get(key)
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
        entry = self._cache.get(key)
        now = self._clock.monotonic()
        if entry is None or now < entry.asking_until:
            return None
        fresh = decide(entry, now, self._clock.wall()) is Freshness.FRESH
        return _use(entry.outcome) if fresh else None

    def _local(self, key: Key) -> Answer | None:
        records = local_records(*key, self._hosts_file)
        if records is None:
            return None
        self._counters.hits += 1
        if not records:
            raise NoDataError(f"{key[0]} has no {key[1]} record")
        found = self._allowed.part_of(key, Found(records, (), HOSTS_TTL, "the hosts file"))
        self._watchers.found(key, frozenset(found.records))
        return self._keep(key, replace(found, server=""), "hosts")

    def _begin(self, key: Key) -> Resolution:
        """Return the lookup of `key` to carry out.

        Raises:
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        self._counters.asked += 1
        now = self._clock.monotonic()
        own = patience = self._deadline
        if self._usable(key, now) is not None:
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
        known = self._cache.get(key)
        if known is not None and self._is_outdated(key, resolution.begun_at):
            return _use(known.outcome)
        suspected_at = known.suspected_at if known is not None else -math.inf
        if suspected_at <= resolution.begun_at:
            suspected_at = -math.inf
        flushed = resolution.begun_at < self._flushed_at
        if isinstance(outcome, Absent):
            error = outcome.error
            self._insert(key, error, 0.0 if flushed else self._rules.negative(outcome.ttl))
            self._watchers.found(key, frozenset())
            raise _again(error)
        outcome = self._allowed.part_of(key, outcome)
        age = resolution.age if is_late or resolution.age > 2 * self._deadline else 0.0
        ttl = 0.0 if flushed else self._rules.positive(outcome.ttl)
        kept = replace(outcome, ttl=max(ttl - age, min(ttl, LATE_TTL)))
        answer = self._keep(key, kept, "network", suspected_at)
        self._watchers.found(key, frozenset(answer.records))
        events.emit(events.NameResolved, *key, answer.records, kept.ttl)
        return answer

    def _adopt(self, name: str, ips: Sequence[str]) -> None:
        """Take `ips` for the last known addresses of `name`, to be used when no server answers."""
        for rdtype in ("A", "AAAA"):
            records = tuple(ip for ip in ips if _kind(ip) == rdtype)
            if records:
                key = key_of(name, rdtype)
                self._keep(key, Found(records, (), LATE_TTL, ""), "system")
                self._cache[key].expires_at = self._cache[key].fetched_at  # stale at once

    def _keep(self, key: Key, found: Found, source: str, suspected_at: float = -math.inf) -> Answer:
        expires_at = self._clock.monotonic() + found.ttl
        answer = Answer(
            *key, found.records, found.chain, source, found.server, expires_at, self._clock,
            found.extended_error,
        )  # fmt: skip
        kept = answer if source == "hosts" else replace(answer, source="cache")
        self._insert(key, kept, found.ttl, suspected_at=suspected_at)
        return answer

    def _insert(
        self,
        key: Key,
        outcome: Answer | DnsError,
        ttl: float,
        *,
        failures: int = 0,
        suspected_at: float = -math.inf,
    ) -> None:
        """Store an outcome for `ttl` seconds; one of 0 is shared by its waiters and not stored."""
        if ttl <= 0:
            self._cache.pop(key, None)
            return
        now = self._clock.monotonic()
        is_answer = isinstance(outcome, Answer)
        asked = isinstance(outcome, Answer) and outcome.source != "hosts"
        ahead = asked and self._prefetch and ttl >= PREFETCH_LEAST_TTL
        self._cache[key] = Entry(
            outcome=outcome,
            fetched_at=now,
            expires_at=now + ttl,
            wall_expires_at=self._clock.wall() + ttl,
            stale_until=now + ttl + (self._rules.max_stale if is_answer else 0.0),
            prefetch_at=now + ttl * PREFETCH_FROM if ahead else float("inf"),
            failures=failures,
            suspected_at=suspected_at,
        )

    def _usable(self, key: Key, now: float) -> Entry | None:
        """Return what is known of `key` and may be used when no server answers."""
        entry = self._cache.get(key)
        known = entry is not None and isinstance(entry.outcome, Answer)
        return entry if known and entry is not None and now < entry.stale_until else None

    def _failed(self, key: Key, error: DnsError | DeadlineExceededError) -> Answer:
        """Return the last known answer, when there is one that may still be used.

        Raises:
            DnsError: `error`, when there is none.
            DeadlineExceededError: there is none, and the caller's own deadline is over, which
                says nothing of the servers.
        """
        now = self._clock.monotonic()
        hurried = enclosing.remaining() == 0
        entry = self._usable(key, now)
        if entry is not None:
            soon = hurried or entry.suspect
            return self._go_on(key, entry, SUSPECT_RECHECK if soon else FAILURE_RECHECK)
        self._counters.failures += 1
        if isinstance(error, DeadlineExceededError):
            raise error
        if hurried:
            raise over(f"resolving {key[0]} {key[1]}") from error
        before = self._cache.get(key)
        failures = 1 + (before.failures if before is not None else 0)
        grows = isinstance(error, ServerFailureError)
        self._insert(
            key, error, failure_hold(failures) if grows else FAILURE_HOLD, failures=failures
        )
        raise error

    def _instead(self, key: Key, resolution: Resolution) -> Answer | None:
        """Return the last known answer for a caller that leaves its lookup to go on.

        None when there is none any more.
        """
        entry = self._usable(key, self._clock.monotonic())
        if entry is None:
            return None
        seconds = SUSPECT_RECHECK if entry.suspect else FAILURE_RECHECK
        return self._go_on(key, entry, seconds, asking_until=resolution.until)

    def _go_on(
        self, key: Key, entry: Entry, seconds: float, *, asking_until: float = 0.0
    ) -> Answer:
        """Return the last known answer; when it is stale, leave the servers alone for a while."""
        is_fresh = self._put_off(entry, seconds, asking_until)
        return _use(entry.outcome) if is_fresh else self._stale(key, entry)

    def _put_off(self, entry: Entry, seconds: float, asking_until: float = 0.0) -> bool:
        """Leave the servers alone for `seconds`; while it is fresh, only if one is being asked.

        Return whether it is fresh.
        """
        now = self._clock.monotonic()
        is_fresh = decide(entry, now, self._clock.wall()) is Freshness.FRESH
        entry.retry_at = now if is_fresh else now + seconds
        entry.asking_until = asking_until or (entry.asking_until if is_fresh else 0.0)
        return is_fresh

    def _known(self, key: Key) -> Answer | None:
        """Return the last known answer for a caller who cannot wait for a better one."""
        now = self._clock.monotonic()
        entry = self._usable(key, now)
        if entry is None:
            return None
        fresh = decide(entry, now, self._clock.wall()) is Freshness.FRESH
        return _use(entry.outcome) if fresh else self._stale(key, entry)

    def _patience(self, key: Key) -> float | None:
        """Return the seconds to wait for another's lookup; None where nothing is known."""
        left = enclosing.remaining()
        if left is None or self._usable(key, self._clock.monotonic()) is None:
            return None
        return min(CLIENT_RESPONSE, left / 2)

    def _stale(self, key: Key, entry: Entry) -> Answer:
        answer = _use(entry.outcome)
        self._counters.stale += 1
        events.emit(events.StaleServed, *key)
        return replace(answer, source="stale")

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

    def _give_up_on(self, key: Key, until: float) -> Answer:
        """Leave a family alone until that second whose answer did not come with the other's.

        Return what is known of it from before.

        Raises:
            ResolveTimeoutError: nothing is.
        """
        now = self._clock.monotonic()
        entry = self._usable(key, now)
        if entry is not None:
            seconds = SUSPECT_RECHECK if entry.suspect else FAILURE_RECHECK
            return self._go_on(key, entry, seconds, asking_until=until)
        error = ResolveTimeoutError(f"no DNS server answered for {key[0]} {key[1]} in time")
        self._insert(key, error, max(until - now, FAILURE_HOLD))
        raise _again(error)

    def _is_only_known(self, key: Key, other: Key) -> bool:
        """Return whether there are addresses of `key`'s family to use, and none of the other's."""
        now = self._clock.monotonic()
        return self._usable(key, now) is not None and self._usable(other, now) is None

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


def _kind(ip: str) -> str:
    return "AAAA" if ":" in ip else "A"


def _use(outcome: Answer | DnsError) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    raise _again(outcome)


def _again(error: DnsError) -> DnsError:
    """Return the same error made anew: a raised exception collects tracebacks."""
    return type(error)(*error.args)
