"""The end of an attempt: again, done, or an error. No database."""

import sys

import pytest
from sqlalchemy.exc import OperationalError

from datakit import RetryPolicy
from datakit.db.attempts import Attempts
from datakit.db.policies import for_transactions
from datakit.errors import CommitUnknownError
from datakit.resilience.reentry import loop_head
from datakit.testing import FakeClock

OUTCOMES: list[bool] = []


def policy(clock: FakeClock, deadline: float = 30.0) -> RetryPolicy:
    return for_transactions(RetryPolicy(deadline=deadline, clock=clock))


def lost() -> OperationalError:
    return OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True)


class Heads:
    """One turn, whose head is that of the attempts."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts
        self.turns = iter([1])

    def __iter__(self) -> "Heads":
        return self

    def __next__(self) -> int:
        self.attempts.head = loop_head(sys._getframe(1))
        return next(self.turns)


def inside_loop(attempts: Attempts, exc: Exception, *, commit: bool) -> bool:
    """Report `exc` from within a loop that comes round."""
    for _ in Heads(attempts):
        frame = sys._getframe()
        if commit:
            attempts.after_commit(exc, frame)
            outcome = True
        else:
            outcome = attempts.again_after_body(exc, frame)
        OUTCOMES.append(outcome)
    return OUTCOMES.pop()


def test_a_lost_link_in_the_body_is_run_again_until_the_deadline() -> None:
    clock = FakeClock()
    attempts = Attempts(policy(clock, 5))
    for _ in range(3):
        assert inside_loop(attempts, lost(), commit=False)
        clock.advance(1)
    assert attempts.remaining == pytest.approx(2)
    clock.advance(2)
    with pytest.raises(OperationalError):
        inside_loop(attempts, lost(), commit=False)


def test_the_callers_own_error_is_not_run_again() -> None:
    attempts = Attempts(policy(FakeClock()))
    assert not inside_loop(attempts, ValueError("own"), commit=False)
    assert not attempts.has_failed


def test_a_link_lost_during_commit_is_unknown() -> None:
    attempts = Attempts(policy(FakeClock()))
    with pytest.raises(CommitUnknownError):
        inside_loop(attempts, lost(), commit=True)


def test_unless_the_caller_says_that_twice_does_no_harm() -> None:
    attempts = Attempts(policy(FakeClock()), idempotent=True)
    assert inside_loop(attempts, lost(), commit=True)


def test_a_constraint_that_fails_at_commit_goes_up() -> None:
    attempts = Attempts(policy(FakeClock()), idempotent=True)
    with pytest.raises(ValueError, match="deferred"):
        inside_loop(attempts, ValueError("deferred"), commit=True)
