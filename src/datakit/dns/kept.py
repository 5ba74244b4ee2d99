"""What a resolver knows: answers and absences while they hold, and past that while nobody can say
better. Nothing here asks or waits."""

import math
from collections.abc import Sequence
from dataclasses import replace

from cachebox import LRUCache

from datakit import events
from datakit._clock import Clock
from datakit.dns.answer import (
    FAILURE_HOLD,
    FAILURE_RECHECK,
    PREFETCH_FROM,
    PREFETCH_LEAST_TTL,
    SUSPECT_RECHECK,
    Answer,
    Entry,
    Freshness,
    decide,
)
from datakit.dns.counters import Counters
from datakit.dns.question import Key, key_of
from datakit.dns.resolution import Found
from datakit.errors import DnsError, ResolveTimeoutError

LATE_TTL = 0.001
"""Seconds for which an answer holds that was over before it was read: then it is stale data."""


class Kept:
    """The outcomes of lookups, by question.

    size: how many are kept. max_stale: seconds past its TTL that an answer is still used when no
        server answers. prefetch: whether a caller in the last tenth of a TTL asks again.
    """

    def __init__(
        self, size: int, *, max_stale: float, prefetch: bool, clock: Clock, counters: Counters
    ) -> None:
        self._entries: LRUCache[Key, Entry] = LRUCache(size)
        self._max_stale = max_stale
        self._prefetch = prefetch
        self._clock = clock
        self._counters = counters
        self.get = self._entries.get
        self.clear = self._entries.clear

    def freshness(self, entry: Entry) -> Freshness:
        """Return whether an entry may be used now."""
        return decide(entry, self._clock.monotonic(), self._clock.wall())

    def is_outdated(self, key: Key, begun_at: float) -> bool:
        """Return whether what is known of `key` is newer than a lookup begun at that second."""
        entry = self.get(key)
        return entry is not None and entry.is_known and entry.fetched_at > begun_at

    def is_only_known(self, key: Key, other: Key) -> bool:
        """Return whether there are addresses of `key`'s family to use, and none of the other's."""
        return self.usable(key) is not None and self.usable(other) is None

    def usable(self, key: Key) -> Entry | None:
        """Return what is known of `key` and may be used when no server answers."""
        entry = self.get(key)
        if entry is None or not isinstance(entry.outcome, Answer):
            return None
        return entry if self._clock.monotonic() < entry.stale_until else None

    def known(self, key: Key) -> Answer | None:
        """Return the last known answer for a caller who cannot wait for a better one."""
        entry = self.usable(key)
        if entry is None:
            return None
        is_fresh = self.freshness(entry) is Freshness.FRESH
        return use(entry.outcome) if is_fresh else self.stale(key, entry)

    def keep(self, key: Key, found: Found, source: str, suspected_at: float = -math.inf) -> Answer:
        """Keep what was found for its TTL; return it as the answer."""
        expires_at = self._clock.monotonic() + found.ttl
        answer = Answer(
            *key, found.records, found.chain, source, found.server, expires_at, self._clock,
            found.extended_error,
        )  # fmt: skip
        kept = answer if source == "hosts" else replace(answer, source="cache")
        self.insert(key, kept, found.ttl, suspected_at=suspected_at)
        return answer

    def adopt(self, name: str, ips: Sequence[str]) -> None:
        """Take `ips` for the last known addresses of `name`, to be used when no server answers."""
        for rdtype in ("A", "AAAA"):
            records = tuple(ip for ip in ips if kind(ip) == rdtype)
            if records:
                key = key_of(name, rdtype)
                self.keep(key, Found(records, (), LATE_TTL, ""), "system")
                self._entries[key].expires_at = self._entries[key].fetched_at  # stale at once

    def insert(
        self,
        key: Key,
        outcome: Answer | DnsError,
        ttl: float,
        *,
        failures: int = 0,
        suspected_at: float = -math.inf,
    ) -> None:
        """Keep an outcome for `ttl` seconds; one of 0 is shared by its waiters and not kept."""
        if ttl <= 0:
            self._entries.pop(key, None)
            return
        now = self._clock.monotonic()
        is_answer = isinstance(outcome, Answer)
        asked = isinstance(outcome, Answer) and outcome.source != "hosts"
        ahead = asked and self._prefetch and ttl >= PREFETCH_LEAST_TTL
        self._entries[key] = Entry(
            outcome=outcome,
            fetched_at=now,
            expires_at=now + ttl,
            wall_expires_at=self._clock.wall() + ttl,
            stale_until=now + ttl + (self._max_stale if is_answer else 0.0),
            prefetch_at=now + ttl * PREFETCH_FROM if ahead else float("inf"),
            failures=failures,
            suspected_at=suspected_at,
        )

    def suspect(self, key: Key) -> None:
        """Have the servers asked again soon: a connection to one of the addresses failed."""
        entry = self.get(key)
        if entry is not None and isinstance(entry.outcome, Answer):
            now = self._clock.monotonic()
            entry.suspected_at = now
            entry.retry_at = min(entry.retry_at, now + SUSPECT_RECHECK)

    def stale(self, key: Key, entry: Entry) -> Answer:
        """Return an answer past its TTL, and tell that it is."""
        answer = use(entry.outcome)
        self._counters.stale += 1
        events.emit(events.StaleServed, *key)
        return replace(answer, source="stale")

    def instead(self, key: Key, until: float) -> Answer | None:
        """Return the last known answer for a caller that leaves its lookup to go on until then.

        None when there is none any more.
        """
        entry = self.usable(key)
        if entry is None:
            return None
        seconds = SUSPECT_RECHECK if entry.suspect else FAILURE_RECHECK
        return self.go_on(key, entry, seconds, asking_until=until)

    def give_up_on(self, key: Key, until: float) -> Answer:
        """Leave a family alone until that second whose answer did not come with the other's.

        Return what is known of it from before.

        Raises:
            ResolveTimeoutError: nothing is.
        """
        known = self.instead(key, until)
        if known is not None:
            return known
        error = ResolveTimeoutError(f"no DNS server answered for {key[0]} {key[1]} in time")
        self.insert(key, error, max(until - self._clock.monotonic(), FAILURE_HOLD))
        raise again(error)

    def go_on(self, key: Key, entry: Entry, seconds: float, *, asking_until: float = 0.0) -> Answer:
        """Return the last known answer; when it is stale, leave the servers alone for a while."""
        is_fresh = self.put_off(entry, seconds, asking_until)
        return use(entry.outcome) if is_fresh else self.stale(key, entry)

    def put_off(self, entry: Entry, seconds: float, asking_until: float = 0.0) -> bool:
        """Leave the servers alone for `seconds`; while it is fresh, only if one is being asked.

        Return whether it is fresh.
        """
        now = self._clock.monotonic()
        is_fresh = self.freshness(entry) is Freshness.FRESH
        entry.retry_at = now if is_fresh else now + seconds
        entry.asking_until = asking_until or (entry.asking_until if is_fresh else 0.0)
        return is_fresh


def kind(ip: str) -> str:
    """Return the record type of an address."""
    return "AAAA" if ":" in ip else "A"


def use(outcome: Answer | DnsError) -> Answer:
    """Return the answer.

    Raises:
        DnsError: it is an absence.
    """
    if isinstance(outcome, Answer):
        return outcome
    raise again(outcome)


def again(error: DnsError) -> DnsError:
    """Return the same error made anew: a raised exception collects tracebacks."""
    return type(error)(*error.args)
