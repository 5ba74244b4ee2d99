"""How a resolver has done."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from datakit.dns.servers import Server


@dataclass(frozen=True, slots=True)
class ServerStats:
    """Queries sent to one server, and those that it did not answer usefully."""

    queries: int
    failures: int


@dataclass(frozen=True, slots=True)
class ResolverStats:
    """Counts since the resolver was made; of servers, since resolv.conf last changed.

    hits: lookups answered from the cache or the hosts file. misses: those that were not.
    stale: answers past their TTL, given for lack of a server. coalesced: misses that shared
    another's query. queries: sent, to all servers. failures: lookups that no server could
    answer. servers: by "address:port".
    """

    hits: int
    misses: int
    stale: int
    coalesced: int
    queries: int
    failures: int
    servers: dict[str, ServerStats] = field(default_factory=dict)


class Counters:
    """Running counts. Under the GIL each line counts whole; without it one may rarely be lost."""

    __slots__ = ("asked", "failures", "hits", "misses", "stale")

    def __init__(self) -> None:
        self.hits = self.misses = self.asked = self.stale = self.failures = 0

    def stats(self, servers: Iterable[Server]) -> ResolverStats:
        """Return the counts so far."""
        by_server: dict[str, ServerStats] = {}
        for server in servers:
            before = by_server.get(str(server), ServerStats(0, 0))
            by_server[str(server)] = ServerStats(
                before.queries + server.queries, before.failures + server.failures
            )
        return ResolverStats(
            hits=self.hits,
            misses=self.misses,
            stale=self.stale,
            coalesced=max(0, self.misses - self.asked),
            queries=sum(stats.queries for stats in by_server.values()),
            failures=self.failures,
            servers=by_server,
        )
