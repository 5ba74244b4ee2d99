"""Retries never become the load: they take tokens that only successes bring."""

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from datakit import RetryBudget, RetryPolicy, events
from datakit.errors import ConfigError
from datakit.resilience import Verdict
from datakit.testing import FakeClock

VERDICTS = sorted(Verdict, key=lambda verdict: verdict.value)


class BudgetModel(RuleBasedStateMachine):
    """The budget beside a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(30, transient=7, throttle=3, conflict=1, success=2)
        self.left = 30

    @rule(verdict=st.sampled_from(VERDICTS))
    def retry(self, verdict: Verdict) -> None:
        cost = self.budget.cost(verdict)
        assert cost == {Verdict.OVERLOAD: 3, Verdict.CONFLICT: 1}.get(verdict, 7)
        taken = self.budget.take(cost)
        assert taken == (self.left >= cost)
        self.left -= cost if taken else 0

    @rule(tokens=st.integers(0, 9))
    def succeed(self, tokens: int) -> None:
        self.budget.give(tokens)
        self.left = min(30, self.left + tokens)

    @rule()
    def fork(self) -> None:
        self.budget.start_anew()

    @invariant()
    def agree(self) -> None:
        assert self.budget.tokens == self.left


TestBudgetModel = BudgetModel.TestCase


def test_threads_lose_no_token() -> None:
    budget = RetryBudget(10_000, transient=1)

    def churn(_: int) -> int:
        taken = sum(budget.take(1) for _ in range(1_000))
        for _ in range(500):
            budget.give(1)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(churn, range(8)))
    assert budget.tokens == 10_000 - taken + 8 * 500


@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError])
def test_under_total_failure_there_are_at_most_1_1_attempts_an_operation(
    error: type[Exception],
) -> None:
    clock, attempts, operations = FakeClock(), 0, 2_000
    policy = RetryPolicy(attempts=3, clock=clock)

    def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise error

    for _ in range(operations):
        with pytest.raises(error):
            policy.call(fail)
    assert attempts / operations <= 1.1


@given(failing=st.integers(0, 100), seed=st.integers(0))
def test_retries_stay_below_what_the_successes_pay_for(failing: int, seed: int) -> None:
    clock, attempts, successes, random = FakeClock(), 0, 0, Random(seed)
    budget = RetryBudget()
    policy = RetryPolicy(attempts=3, clock=clock, base=0, budget=budget)

    def flaky() -> None:
        nonlocal attempts
        attempts += 1
        if random.randrange(100) < failing:
            raise ConnectionResetError

    for _ in range(300):
        try:
            policy.call(flaky)
            successes += 1
        except ConnectionResetError:
            pass
    retries = attempts - 300
    # a success brings back what its last retry took, so each pays for at most one of its own
    assert retries <= 500 / 14 + successes * (1 + 1 / 14)


def test_a_denied_retry_is_told_and_the_error_says_why() -> None:
    seen: list[events.Event] = []
    policy = RetryPolicy(budget=RetryBudget(20), clock=FakeClock(), name="orders")

    def fail() -> None:
        raise ConnectionResetError

    unsubscribe = events.subscribe(seen.append)
    with pytest.raises(ConnectionResetError) as caught:
        policy.call(fail)
    unsubscribe()
    assert events.BudgetDenied("orders", "disconnect", 14) in seen
    assert "the retry budget is empty" in caught.value.__notes__[0]
    assert "orders gave up after 2 attempt(s)" in caught.value.__notes__[0]


def test_a_success_after_a_retry_brings_back_what_the_retry_took() -> None:
    budget, outcomes = RetryBudget(), [ConnectionResetError(), None, None]
    policy = RetryPolicy(budget=budget, clock=FakeClock())

    def step() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    policy.call(step)
    assert budget.tokens == 500
    budget.take(10)
    policy.call(step)
    assert budget.tokens == 491


@pytest.mark.parametrize("name", ["capacity", "transient", "throttle", "conflict", "success"])
def test_a_figure_out_of_range_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"RetryBudget\({name}=-1\)"):
        RetryBudget(**{name: -1})


def test_each_policy_has_a_budget_of_its_own_unless_given_one() -> None:
    shared = RetryBudget()
    assert RetryPolicy().budget is not RetryPolicy().budget
    assert RetryPolicy(budget=shared).budget is RetryPolicy(budget=shared).budget
