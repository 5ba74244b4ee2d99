"""What a successful call costs through each strategy, beside its peers: benchmarks/resilience.py

Each line is the best of many rounds; the rounds of all contestants alternate, so that a busy
machine disturbs them alike. Nothing fails here: a success is what a service pays for all day.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pybreaker
import stamina
import tenacity

from datakit import Bulkhead, CircuitBreaker, RetryPolicy, deadline
from datakit.resilience import Gate

ROUNDS = 60
CALLS = 3_000


def work(number: int) -> int:
    return number


async def awork(number: int) -> int:
    return number


def timed(call: Callable[[], object]) -> float:
    """Return the microseconds of one call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def atimed(call: Callable[[], Awaitable[object]]) -> float:
    """Return the microseconds of one awaited call."""

    async def run() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            await call()
        return (time.perf_counter() - start) / CALLS * 1e6

    return asyncio.run(run())


def compare(title: str, rounds: dict[str, Callable[[], float]], own: str) -> None:
    """Run all in turns and print their best rounds beside that of `own`."""
    best = dict.fromkeys(rounds, float("inf"))
    for _ in range(ROUNDS):
        for name, measure in rounds.items():
            best[name] = min(best[name], measure())
    print(f"\n{title}")
    for name, figure in best.items():
        print(f"  {name:<52} {figure:8.3f} µs   {figure / best[own]:7.2f} x")


def main() -> None:
    logging.getLogger("stamina").setLevel(logging.CRITICAL)
    policy, breaker, bulkhead, gate = RetryPolicy(), CircuitBreaker(), Bulkhead(25), Gate()
    theirs = tenacity.Retrying(stop=tenacity.stop_after_attempt(3))
    atheirs = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
    stamined = stamina.RetryingCaller(attempts=3).on(ConnectionError)
    astamined = stamina.AsyncRetryingCaller(attempts=3).on(ConnectionError)
    pybroken = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=5)

    def all_three() -> int:
        with deadline(2.0):
            return policy.call(breaker.call, work, 7)

    async def aall_three() -> int:
        with deadline(2.0):
            return await policy.acall(breaker.acall, awork, 7)

    def in_a_loop() -> int:
        result = 0
        for attempt in policy:
            with attempt:
                result = work(7)
        return result

    def tenacity_loop() -> int:
        result = 0
        for attempt in theirs:
            with attempt:
                result = work(7)
        return result

    def stamina_loop() -> int:
        result = 0
        for attempt in stamina.retry_context(on=ConnectionError, attempts=3):
            with attempt:
                result = work(7)
        return result

    def within() -> int:
        with deadline(2.0):
            return work(7)

    combined = "datakit policy + breaker + deadline"
    sync: dict[str, Callable[[], object]] = {
        "the function itself": lambda: work(7),
        combined: all_three,
        "datakit deadline": within,
        "datakit RetryPolicy.call": lambda: policy.call(work, 7),
        "datakit CircuitBreaker.call": lambda: breaker.call(work, 7),
        "datakit Bulkhead.call": lambda: bulkhead.call(work, 7),
        "datakit Gate.call": lambda: gate.call(work, 7),
        "datakit for attempt in policy": in_a_loop,
        "tenacity Retrying": lambda: theirs(work, 7),
        "tenacity for attempt in Retrying": tenacity_loop,
        "stamina RetryingCaller": lambda: stamined(work, 7),
        "stamina for attempt in retry_context": stamina_loop,
        "pybreaker CircuitBreaker.call": lambda: pybroken.call(work, 7),
        "tenacity around pybreaker": lambda: theirs(pybroken.call, work, 7),
    }
    compare(
        "a successful call", {name: partial(timed, call) for name, call in sync.items()}, combined
    )
    tasks: dict[str, Callable[[], Awaitable[object]]] = {
        "the coroutine itself": lambda: awork(7),
        combined: aall_three,
        "datakit RetryPolicy.acall": lambda: policy.acall(awork, 7),
        "datakit CircuitBreaker.acall": lambda: breaker.acall(awork, 7),
        "tenacity AsyncRetrying": lambda: atheirs(awork, 7),
        "stamina AsyncRetryingCaller": lambda: astamined(awork, 7),
    }
    compare(
        "a successful await",
        {name: partial(atimed, call) for name, call in tasks.items()},
        combined,
    )


if __name__ == "__main__":
    main()
