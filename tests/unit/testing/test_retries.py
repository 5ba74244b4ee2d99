"""Retries without waiting, for the suites of applications."""

import time

import pytest
from sqlalchemy import create_engine

from datakit import RetryPolicy, deadline, transaction
from datakit.errors import ConfigError
from datakit.resilience import Rule, Verdict
from datakit.testing import no_sleep


class Flaky:
    def __init__(self, times: int) -> None:
        self.times = times
        self.runs = 0

    def __call__(self) -> int:
        self.runs += 1
        if self.runs <= self.times:
            raise ConnectionResetError
        return self.runs

    async def awaited(self) -> int:
        return self()


SLOW = RetryPolicy(attempts=5, base=600.0, cap=600.0, deadline=1e6)


def test_a_call_is_tried_as_often_as_in_earnest_and_takes_no_time() -> None:
    began, last = time.monotonic(), 0
    with no_sleep():
        assert SLOW.call(Flaky(4)) == 5
        for attempt in SLOW:
            with attempt:
                last = attempt.number
                if last < 5:
                    raise ConnectionResetError
    assert last == 5
    assert time.monotonic() - began < 60


async def test_a_task_too() -> None:
    with no_sleep():
        assert await SLOW.acall(Flaky(4).awaited) == 5


def test_the_attempts_can_be_capped_for_all_policies() -> None:
    until_deadline = RetryPolicy(rules={Verdict.DISCONNECT: Rule(attempts=float("inf"))})
    for policy in (SLOW, until_deadline):
        flaky = Flaky(9)
        with no_sleep(attempts=2), pytest.raises(ConnectionResetError):
            policy.call(flaky)
        assert flaky.runs == 2


def test_what_is_tried_until_a_deadline_ends_as_if_the_time_had_passed() -> None:
    flaky = Flaky(10**9)
    policy = RetryPolicy(
        base=1.0, cap=1.0, deadline=50.0,
        rules={Verdict.DISCONNECT: Rule(attempts=float("inf"), charged=False)},
    )  # fmt: skip
    with no_sleep(), pytest.raises(ConnectionResetError):
        policy.call(flaky)
    assert 60 < flaky.runs < 180  # 50 s in steps of half a second on average


def test_an_enclosing_deadline_counts_the_time_that_was_skipped() -> None:
    flaky = Flaky(10**9)
    with no_sleep(), deadline(3000.0), pytest.raises(ConnectionResetError):
        RetryPolicy(attempts=10**9, base=600.0, cap=600.0, deadline=1e6).call(flaky)
    assert flaky.runs < 100


def test_nested_blocks_and_their_ends() -> None:
    with no_sleep(attempts=3):
        with no_sleep(attempts=1):
            flaky = Flaky(9)
            with pytest.raises(ConnectionResetError):
                SLOW.call(flaky)
            assert flaky.runs == 1
        flaky = Flaky(9)
        with pytest.raises(ConnectionResetError):
            SLOW.call(flaky)
        assert flaky.runs == 3


def test_no_attempts_are_refused() -> None:
    with pytest.raises(ConfigError, match="attempts=0"), no_sleep(attempts=0):
        pass


def test_transactions_do_not_wait_either() -> None:
    engine = create_engine("sqlite://")
    policy = RetryPolicy(
        attempts=3, base=1e4, cap=1e4, deadline=1e6, classify=lambda _: Verdict.CONFLICT
    )
    runs = 0
    with no_sleep(), pytest.raises(ConnectionResetError):
        for tx in transaction(engine, retry=policy):
            with tx:
                runs += 1
                raise ConnectionResetError
    assert runs == 3
