"""What `Resolver` and `AsyncResolver` share: the cache and every decision, no I/O."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cachebox import LRUCache

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.dns.answer import (
    CLIENT_RESPONSE,
    FAILURE_RECHECK,
    SUSPECT_RECHECK,
    Answer,
    Entry,
    Freshness,
    TtlRules,
    decide,
)
from datakit.dns.config import parse_server
from datakit.dns.hosts import local_records
from datakit.dns.resolution import Absent, Found
from datakit.errors import ConfigError, DnsError, NoDataError
from datakit.resilience.deadlines import deadline as enclosing

HOSTS_TTL = 60.0
"""Seconds before the hosts file is read again for a name."""


F = TypeVar("F")
"""The kind of single flight that a twin uses."""


class Address(NamedTuple):
    """Where to connect: an IP address in text form and a port."""

    ip: str
    port: int


class ResolverBase(Generic[F]):
    """A TTL cache in front of DNS servers.

    servers: "address" or "address:port"; None for those of resolv.conf.
    min_ttl, max_ttl: seconds, bounds on the servers' TTLs. negative_max_ttl: seconds that an
    absence is believed at most. max_stale: seconds past its TTL that an answer is still used
    when no server answers. cache_size: answers kept. timeout: seconds a server may take.
    deadline: seconds a lookup may take in all. hosts: whether the hosts file is read.
    search: domains tried for a short name; None for those of resolv.conf, when `servers` is None.

    Raises:
        ConfigError: a server is no address, or a figure is out of range.
    """

    _new_flights: type[F]

    def __init__(
        self,
        servers: Sequence[str] | None = None,
        *,
        min_ttl: float = 0.0,
        max_ttl: float = 300.0,
        negative_max_ttl: float = 5.0,
        max_stale: float = 3600.0,
        cache_size: int = 10_000,
        timeout: float = 2.0,
        deadline: float = 5.0,
        hosts: bool = True,
        search: Sequence[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        figures = {
            "min_ttl": min_ttl, "max_ttl": max_ttl, "negative_max_ttl": negative_max_ttl,
            "max_stale": max_stale, "timeout": timeout, "deadline": deadline,
        }  # fmt: skip
        if isinstance(servers, str):
            raise ConfigError(f"servers={servers!r}: expected a list of addresses")
        for name, value in figures.items():
            if not value >= 0:
                raise ConfigError(f"{name}={value!r}: must be 0 or more seconds")
        if cache_size < 1:
            raise ConfigError(f"cache_size={cache_size!r}: must be 1 or more")
        self._servers = None if servers is None else [parse_server(server) for server in servers]
        self._search = search
        self._rules = TtlRules(min_ttl, max_ttl, negative_max_ttl, max_stale)
        self._timeout = timeout
        self._deadline = deadline
        self._hosts_file = Path("/etc/hosts" if hosts else "/dev/null")
        self._clock = clock
        self._flights = self._new_flights()
        self._cache: LRUCache[tuple[str, str], Entry] = LRUCache(cache_size)

    def flush(self) -> None:
        """Forget every answer."""
        self._cache.clear()

    def report_failure(self, name: str, ip: str) -> None:
        """Say that a connection to `ip`, an address of `name`, failed.

        The next lookup asks the servers again, however long the TTL: at most ten times a second,
        and once a second while none of them answers.
        """
        entry = self._cache.get((name.lower(), "AAAA" if ":" in ip else "A"))
        if entry is not None:
            entry.suspect = True
            entry.retry_at = min(entry.retry_at, self._clock.monotonic() + SUSPECT_RECHECK)

    def _lifetime(self, key: tuple[str, str]) -> float:
        """Return the seconds that a query for `key` may take.

        Raises:
            DeadlineExceededError: nothing is left of the enclosing `deadline`.
        """
        has_stale = self._cache.get(key) is not None
        return enclosing.bound(
            min(self._deadline, CLIENT_RESPONSE) if has_stale else self._deadline
        )

    def _stored(self, key: tuple[str, str]) -> Answer | None:
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
            return _use(entry.outcome)
        if freshness is Freshness.STALE and now < entry.retry_at:
            return self._stale(key, entry)
        return self._local(key)

    def _local(self, key: tuple[str, str]) -> Answer | None:
        records = local_records(*key, self._hosts_file)
        if records is None:
            return None
        if not records:
            raise NoDataError(f"{key[0]} has no {key[1]} record")
        return self._store(key, Found(records, (), HOSTS_TTL, ""), source="hosts")

    def _store(
        self, key: tuple[str, str], outcome: Found | Absent, source: str = "network"
    ) -> Answer:
        """Keep an outcome and return it as the answer.

        Raises:
            DnsError: it is an absence.
        """
        now = self._clock.monotonic()
        expires_at = now + outcome.ttl
        kept: Answer | DnsError
        if isinstance(outcome, Absent):
            answer, kept = None, outcome.error
        else:
            answer = Answer(
                *key, outcome.records, outcome.chain, source, outcome.server, expires_at,
                self._clock,
            )  # fmt: skip
            kept = answer if source == "hosts" else replace(answer, source="cache")
        self._cache[key] = Entry(
            outcome=kept,
            fetched_at=now,
            expires_at=expires_at,
            wall_expires_at=self._clock.wall() + outcome.ttl,
            stale_until=expires_at + self._rules.max_stale,
        )
        if answer is None:
            return _use(kept)
        if source == "network":
            events.emit(events.NameResolved, *key, answer.records, outcome.ttl)
        return answer

    def _failed(self, key: tuple[str, str], error: DnsError) -> Answer:
        """Return the last known answer, when there is one that may still be used.

        Raises:
            DnsError: `error`, when there is none.
        """
        entry = self._cache.get(key)
        now = self._clock.monotonic()
        if entry is None or now >= entry.stale_until or isinstance(entry.outcome, DnsError):
            raise error
        entry.retry_at = now + FAILURE_RECHECK
        return self._stale(key, entry)

    def _stale(self, key: tuple[str, str], entry: Entry) -> Answer:
        answer = _use(entry.outcome)
        events.emit(events.StaleServed, *key)
        return replace(answer, source="stale")


def _use(outcome: Answer | DnsError) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    raise type(outcome)(*outcome.args)  # a new one: a raised exception collects tracebacks
