"""The options of a retry, its decisions, and the shells that run a call by them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.errors import ConfigError
from datakit.resilience import checks
from datakit.resilience.backoff import Uniform, full_jitter
from datakit.resilience.budget import RetryBudget
from datakit.resilience.classification import classify_by_type
from datakit.resilience.deadlines import enter, leave
from datakit.resilience.retry import RetryLoop, name_of
from datakit.resilience.rule import DEFAULT, DEFAULTS, Rule
from datakit.resilience.verdict import Verdict

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from datakit.resilience.attempt import Attempt

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class RetryPolicy:
    """How often and for how long a call is tried. Immutable; threads and tasks share it.

    attempts: in all, the first included. (3: botocore's standard mode.)
    base, cap: seconds, the first and the largest ceiling of the full-jitter backoff; a `cap`
        below `base` counts as `base`.
    deadline: seconds for the whole operation. Everything of datakit inside a call honours it,
        and no attempt starts that would begin after it.
    budget: tokens that retries take. One of its own unless given; share one among the policies
        of one endpoint.
    rules: what differs for failures of one verdict.
    classify: the verdict of a failure; None for a rule by its type: bugs and wrong values go up
        at once, anything else is tried again.
    retry, wait, stop: tenacity's strategies or any function of its `RetryCallState`, in place of
        the verdict's answer, the backoff and the count of attempts. The deadline, the budget and
        a server's Retry-After hold all the same.
    name: what events and notes call the operation; empty for the name of the function.

    Raises:
        ConfigError: an argument is out of range; the message names it.
    """

    attempts: int = 3
    base: float = 0.05
    cap: float = 1.0
    deadline: float = 30.0
    budget: RetryBudget = field(default_factory=RetryBudget)
    rules: Mapping[Verdict, Rule] = field(default_factory=dict)
    classify: Callable[[BaseException], Verdict] | None = None
    retry: "Callable[[RetryCallState], bool] | None" = None
    wait: "Callable[[RetryCallState], float] | None" = None
    stop: "Callable[[RetryCallState], bool] | None" = None
    name: str = ""
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    def __post_init__(self) -> None:
        checks.count("RetryPolicy", "attempts", self.attempts)
        for name in ("base", "cap", "deadline"):
            above_zero = name == "deadline"
            checks.seconds("RetryPolicy", name, getattr(self, name), above_zero=above_zero)
        if not isinstance(self.budget, RetryBudget):
            raise ConfigError(f"RetryPolicy(budget={self.budget!r}): must be a RetryBudget")
        if not isinstance(self.rules, Mapping):
            raise ConfigError(f"RetryPolicy(rules={self.rules!r}): must map Verdicts to Rules")
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))
        for verdict, rule in self.rules.items():
            if not isinstance(verdict, Verdict) or not isinstance(rule, Rule):
                raise ConfigError(
                    f"RetryPolicy(rules=...): maps each Verdict to a Rule, "
                    f"got {verdict!r}: {rule!r}"
                )
        for name in ("classify", "retry", "wait", "stop"):
            if getattr(self, name) is not None:
                checks.function("RetryPolicy", name, getattr(self, name))

    def verdict(self, failure: BaseException) -> Verdict:
        """Return what `failure` means for trying again.

        Raises:
            ConfigError: `classify` returned something else than a Verdict.
        """
        verdict = (self.classify or classify_by_type)(failure)
        if not isinstance(verdict, Verdict):
            raise ConfigError(f"classify returned {verdict!r} for {failure!r}: must be a Verdict")
        return verdict

    def rule(self, verdict: Verdict) -> Rule:
        """Return the rule for failures of `verdict`."""
        return self.rules.get(verdict) or DEFAULTS.get(verdict, DEFAULT)

    def allows(self, verdict: Verdict, attempt: int) -> bool:
        """Return whether attempt number `attempt`, failed by `verdict`, may have a successor."""
        allowed = self.rule(verdict).attempts
        return attempt < (self.attempts if allowed is None else allowed)

    def delay(
        self, verdict: Verdict, attempt: int, uniform: Uniform, asked: float | None = None
    ) -> float:
        """Return the seconds to wait after failed attempt number `attempt`.

        asked: what the server asked for, in seconds. The backoff is added to it, so that those
        who were told the same do not come at once; it then starts at `base`, also after an
        overload.
        """
        rule = self.rule(verdict)
        own = rule.base is None or asked is not None
        base = self.base if own else max(self.base, rule.base or 0.0)
        cap = self.cap if rule.cap is None else rule.cap
        return (asked or 0.0) + full_jitter(attempt, base, max(base, cap), uniform)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, tried again as the policy allows.

        Raises:
            DeadlineExceededError: nothing is left of the enclosing `deadline` at the start.
            Exception: what the last attempt raised, with a note of what was tried.
        """
        started = self.clock.monotonic()
        block = enter(started, self.deadline, self.clock)
        loop: RetryLoop | None = None
        try:
            while True:
                try:
                    result = fn(*args, **kwargs)
                except Exception as exc:  # noqa: BLE001 - the loop raises it again or waits
                    loop = loop or RetryLoop(self, started, name_of(fn))
                    delay = loop.failed(exc)
                else:
                    if loop is None and self.retry is None:
                        budget = self.budget
                        if budget.tokens < budget.capacity:
                            budget.give(budget.success)
                        return result
                    loop = loop or RetryLoop(self, started, name_of(fn))
                    again = loop.returned(result)
                    if again is None:
                        return result
                    delay = again
                loop.clock.sleep(delay)
                loop.resume()
        finally:
            if block is not None:
                try:
                    leave(block)
                except BaseException:  # a signal's, before it began
                    leave(block)
                    raise

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `await fn(*args, **kwargs)`, tried again as the policy allows.

        Raises:
            DeadlineExceededError: nothing is left of the enclosing `deadline` at the start.
            Exception: what the last attempt raised, with a note of what was tried.
        """
        started = self.clock.monotonic()
        block = enter(started, self.deadline, self.clock)
        loop: RetryLoop | None = None
        try:
            while True:
                try:
                    result = await fn(*args, **kwargs)
                except Exception as exc:  # noqa: BLE001 - the loop raises it again or waits
                    loop = loop or RetryLoop(self, started, name_of(fn))
                    delay = loop.failed(exc)
                else:
                    if loop is None and self.retry is None:
                        budget = self.budget
                        if budget.tokens < budget.capacity:
                            budget.give(budget.success)
                        return result
                    loop = loop or RetryLoop(self, started, name_of(fn))
                    again = loop.returned(result)
                    if again is None:
                        return result
                    delay = again
                await loop.clock.asleep(delay)
                loop.resume()
        finally:
            if block is not None:
                leave(block)

    def __iter__(self) -> "Iterator[Attempt]":
        """Return the attempts of one operation: for attempt in policy: with attempt: ..."""
        from datakit.resilience.attempt import Attempts

        return Attempts(self)

    def __aiter__(self) -> "AsyncIterator[Attempt]":
        """Return the attempts of one operation: async for attempt in policy: with attempt: ..."""
        from datakit.resilience.attempt import AsyncAttempts

        return AsyncAttempts(self)
