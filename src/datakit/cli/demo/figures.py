"""What the demo measured. Plain records; all times are seconds."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """One write as its caller saw it; `at` counts from the start of the load."""

    order: int
    at: float
    seconds: float
    ok: bool


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """What the callers of one lane lived through."""

    acknowledged: int
    errors: int
    lost: int
    duplicates: int
    longest_seconds: float


def lane_figures(
    calls: Sequence[Call], orders: Collection[int], payments: Sequence[int]
) -> LaneFigures:
    """Return the figures of `calls`, held against what the surviving server has.

    orders: the orders found there. payments: the order of each payment found there; every order
    should have one.
    """
    paid = Counter(payments)
    kept = set(orders) & paid.keys()
    return LaneFigures(
        acknowledged=sum(call.ok for call in calls),
        errors=sum(not call.ok for call in calls),
        lost=sum(call.ok and call.order not in kept for call in calls),
        duplicates=sum(count - 1 for count in paid.values()),
        longest_seconds=round(max((call.seconds for call in calls), default=0.0), 4),
    )


@dataclass(frozen=True, slots=True)
class HitFigures:
    """One read that missed the cache, then the same one again."""

    miss_seconds: float
    hit_seconds: float
    queries: int


@dataclass(frozen=True, slots=True)
class StampedeFigures:
    """Many callers of one expired key."""

    callers: int
    queries: int
    errors: int


@dataclass(frozen=True, slots=True)
class MoveFigures:
    """A record changed under a warm pool."""

    ttl_left_seconds: float
    moved_after_seconds: float
    reads: int
    errors: int


@dataclass(frozen=True, slots=True)
class CacheLossFigures:
    """Redis killed under read load."""

    reads: int
    errors: int
    wrong: int
    loads_allowed: int
    most_loads_at_once: int


@dataclass(frozen=True, slots=True)
class FailoverFigures:
    """The two lanes over the same seconds, and when what happened."""

    datakit: LaneFigures
    control: LaneFigures
    killed_at: float
    promoted_at: float
    record_changed_at: float
    calls: dict[str, list[Call]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything."""

    hit: HitFigures
    stampede: StampedeFigures
    dns_move: MoveFigures
    failover: FailoverFigures
    cache_loss: CacheLossFigures
    elapsed_seconds: float
