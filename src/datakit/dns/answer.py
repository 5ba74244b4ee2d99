"""What a lookup returns, how long it holds, and when it is still good. Pure."""

import math
from dataclasses import dataclass, field
from enum import Enum

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import DnsError, ResolveTimeoutError, ServerFailureError


@dataclass(frozen=True, slots=True)
class Answer:
    """The records of one name and type.

    records: in presentation form ("192.0.2.7", "10 mail.example."), in the server's order.
    chain: the names that CNAMEs led through, the name asked for excluded.
    source: "network", "cache", "stale" or "hosts". server: "address:port" that answered, or "".
    extended_error: what the server added, such as "EDE 3 (Stale Answer)" (RFC 8914), or "".
    """

    name: str
    rdtype: str
    records: tuple[str, ...]
    chain: tuple[str, ...]
    source: str
    server: str
    expires_at: float = field(repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False, compare=False)
    extended_error: str = ""

    @property
    def ttl(self) -> float:
        """Seconds for which the records still hold, counting down to 0."""
        return max(0.0, self.expires_at - self.clock.monotonic())


@dataclass(frozen=True, slots=True)
class TtlRules:
    """Bounds, in seconds, on what the servers say."""

    min_ttl: float = 0.0
    max_ttl: float = 300.0
    negative_max_ttl: float = 5.0

    def positive(self, ttl: float) -> float:
        """Return how long records hold whose lowest TTL along the chain is `ttl`."""
        return min(max(ttl, self.min_ttl), self.max_ttl)

    def negative(self, ttl: float) -> float:
        """Return how long an absence holds; `ttl` is the lower of the SOA's TTL and MINIMUM.

        Source: RFC 2308 section 5.
        """
        return min(ttl, self.negative_max_ttl)


class Freshness(Enum):
    """Whether a stored answer may be used."""

    FRESH = "fresh"
    STALE = "stale"
    GONE = "gone"


@dataclass(slots=True)
class Entry:
    """A stored answer or absence, with its times on both clocks (seconds).

    A frozen process may not advance the monotonic clock, so the wall clock may end an entry
    as well. Until `asking_until` one caller is taken to ask the servers while the others use what
    is there. `suspected_at` is when a connection to one of the addresses failed; `failures` counts
    the lookups that failed in a row. One that only stands for a failure is no answer: it says
    until when (`expires_at`) the servers are left alone.
    """

    outcome: Answer | DnsError
    fetched_at: float
    expires_at: float
    wall_expires_at: float
    stale_until: float
    retry_at: float = 0.0
    prefetch_at: float = math.inf
    asking_until: float = 0.0
    suspected_at: float = -math.inf
    failures: int = 0

    @property
    def suspect(self) -> bool:
        """Whether a connection to one of the addresses failed."""
        return self.suspected_at > -math.inf

    @property
    def is_known(self) -> bool:
        """Whether the servers said it, be it an absence, and not that they failed."""
        return not isinstance(self.outcome, ResolveTimeoutError | ServerFailureError)


SUSPECT_HOLD = 0.1
"""Seconds between two queries for a name that connections keep failing to: ten a second are
enough to see a record flip and far below the VPC resolver's 1,024 packets a second."""

SUSPECT_RECHECK = 1.0
"""Seconds for which stale data is served without asking again when connections to it fail."""

PREFETCH_FROM = 0.9
"""Share of the TTL after which the next caller asks again, so that nobody waits at its end.
Source: unbound's `prefetch`."""

FAILURE_HOLD = 1.0
FAILURE_HOLD_MOST = 30.0
"""Seconds for which a failure is believed, doubling from the first to the most while the servers
answer with nothing else. Source: RFC 9520 section 3.2."""


def failure_hold(failures: int) -> float:
    """Return the seconds to leave the servers alone after so many failures in a row."""
    return min(FAILURE_HOLD * 2.0 ** min(failures - 1, 10), FAILURE_HOLD_MOST)


PREFETCH_LEAST_TTL = 10.0
"""Seconds; a shorter TTL is left to end: it would be asked about nearly as often as looked up."""

CLIENT_RESPONSE = 1.8
"""Seconds that a query may take where stale data could be served instead. Source: RFC 8767
section 5."""

FAILURE_RECHECK = 30.0
"""Seconds for which stale data is served without asking again. Source: RFC 8767 section 5."""


def decide(entry: Entry, now: float, wall: float) -> Freshness:
    """Return whether `entry` may be used at `now` (monotonic) and `wall` (epoch) seconds."""
    if entry.suspect and now - entry.fetched_at >= SUSPECT_HOLD:
        return Freshness.STALE
    if now < entry.expires_at and wall < entry.wall_expires_at:
        return Freshness.FRESH
    return Freshness.STALE if now < entry.stale_until else Freshness.GONE
