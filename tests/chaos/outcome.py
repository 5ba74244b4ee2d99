"""What became of one lane's payments: judged by the books after a run."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from tests.chaos.bank import OPENING_BALANCE, Books
from tests.chaos.lanes import Failure, Lane

from datakit.errors import CommitUnknownError


class Times(NamedTuple):
    """When it happened, when an independent client's write was taken again, and when whoever was
    still waiting was helped. By `time.monotonic()`."""

    fault: float
    accepts: float
    end: float


@dataclass(frozen=True)
class Outcome:
    """One lane in one run.

    acknowledged: payments. errors: how many a kind. error_times: seconds since the fault.
    unknown: COMMITs of which the lane was told that nobody knows. lost: acknowledged and not in the
    books. lost_by_server: those that the old primary had and the new one never received. doubled:
    payments in the books more than once. torn: money too much or too little. recovery: seconds that
    each writer's first payment after the new writer's first write took since then. away: writers
    that did not come back in time. hangs: whether one never finished.
    """

    lane: str
    claims: bool
    writers: int
    acknowledged: int
    errors: dict[str, int]
    error_times: list[float]
    unknown: int
    lost: int
    lost_by_server: int
    doubled: int
    torn: int
    recovery: list[float]
    away: int
    hangs: bool

    @property
    def damage(self) -> int:
        """Errors, payments lost or doubled, writers that are still waiting."""
        errors = sum(self.errors.values())
        return errors + self.lost + self.doubled + abs(self.torn) + self.away + self.hangs


def judge(lane: Lane, books: Books, left_behind: Collection[int], times: Times) -> Outcome:
    """Return what became of `lane`. left_behind: payments that only the old primary has."""
    failures = [each for each in lane.failures if not (lane.asks and _is_unknown(each))]
    missing = [each.payment for each in lane.commits if each.payment not in books.payments]
    lost_by_server = [payment for payment in missing if payment in left_behind]
    back = lane.back(times.accepts, times.end)
    return Outcome(
        lane=lane.name,
        claims=lane.claims,
        writers=lane.writers,
        acknowledged=len(lane.commits),
        errors=dict(Counter(map(_kind, failures))),
        error_times=[round(each.at - times.fault, 3) for each in failures],
        unknown=len(lane.failures) - len(failures),
        lost=len(missing) - len(lost_by_server),
        lost_by_server=len(lost_by_server),
        doubled=sum(count > 1 for count in books.payments.values()),
        torn=books.total - lane.writers * OPENING_BALANCE,
        recovery=sorted(round(each.waited(times.accepts), 4) for each in back.values()),
        away=lane.writers - len(back),
        hangs=lane.hangs,
    )


def _is_unknown(failure: Failure) -> bool:
    return isinstance(failure.error, CommitUnknownError)


def _kind(failure: Failure) -> str:
    text = str(failure.error).strip().partition("\n")[0]
    return f"{type(failure.error).__name__}: {text}"[:160]
