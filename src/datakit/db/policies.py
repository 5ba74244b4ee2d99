"""What a retry policy means for a database: a lost link is tried until the deadline."""

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from datakit._clock import Clock
from datakit.db.classification import classify
from datakit.db.endpoint import Endpoint
from datakit.resilience import RetryPolicy, Verdict
from datakit.resilience.rule import UNTIL_DEADLINE


def default_policy(endpoint: Endpoint | None = None) -> RetryPolicy:
    """Return a policy with a budget of its own, for `endpoint` or a factory bound to none.

    25 ms doubling to 200 ms: a new writer is found soon, and is not stormed; to 1 s where a proxy
    finds it, to 100 ms where there are others that cost little to ask.
    """
    if endpoint is None:
        return RetryPolicy(base=0.025, cap=0.2)
    cap = 1.0 if endpoint.pins else 0.1 if endpoint.writes else 0.2
    return RetryPolicy(base=0.025, cap=cap, deadline=endpoint.deadline)


def for_transactions(policy: RetryPolicy) -> RetryPolicy:
    """Return `policy` with what it leaves open filled in for transactions."""
    return replace(
        policy,
        rules={**UNTIL_DEADLINE, **policy.rules},
        classify=policy.classify or classify,
        name=policy.name or "transaction",
    )


def for_connecting(
    policy: RetryPolicy, host: str, verdict: Callable[[BaseException], Verdict], clock: Clock
) -> RetryPolicy:
    """Return `policy` for connecting to `host`; `verdict` judges what it does not itself.

    A server that is away is waited for at the gate, which spaces out all callers: no backoff
    beside that.
    """
    return replace(
        policy,
        base=0.0,
        rules={**UNTIL_DEADLINE, **policy.rules},
        classify=policy.classify or verdict,
        name=f"connect to {host}",
        clock=clock,
    )


_policies: WeakKeyDictionary[object, RetryPolicy] = WeakKeyDictionary()


def remember(engine: object, policy: RetryPolicy) -> None:
    """Let transactions on `engine` go by `policy`."""
    _policies[engine] = for_transactions(policy)


def policy_of(engine: object) -> RetryPolicy:
    """Return the policy of transactions on `engine`, or on a factory that is bound to none."""
    known = _policies.get(engine)
    if known is None:
        remember(engine, default_policy())
        known = _policies[engine]
    return known
