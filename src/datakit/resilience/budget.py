"""How many retries an endpoint gets before its callers must take the first answer."""

from threading import Lock

from datakit.resilience import checks
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.verdict import Verdict


class RetryBudget:
    """Tokens that retries take and successes bring, so that retries never become the load.

    While an endpoint is down every retry takes more than it can bring: after `capacity` tokens
    nothing is tried twice, and the attempts per operation go towards 1. Give the policies of one
    endpoint one budget, and each endpoint its own. Thread-safe; threads and tasks share it.

    capacity: tokens at first, and at most. transient: tokens of a retry after a lost or refused
    link. throttle: after an overload. conflict: after a conflict, where the server is well.
    success: tokens that a success brings; one that needed retries brings back the last one's.

    Raises:
        ConfigError: a figure is below 1 (`capacity`) or 0; the message names it.

    Source: botocore's standard retry mode, 1.44: 500, 14, 5, 1.
    """

    __slots__ = ("__weakref__", "_costs", "_lock", "capacity", "success", "tokens")

    def __init__(
        self,
        capacity: int = 500,
        *,
        transient: int = 14,
        throttle: int = 5,
        conflict: int = 1,
        success: int = 1,
    ) -> None:
        checks.count("RetryBudget", "capacity", capacity)
        for name, value in (
            ("transient", transient),
            ("throttle", throttle),
            ("conflict", conflict),
            ("success", success),
        ):
            checks.count("RetryBudget", name, value, least=0)
        self.capacity = capacity
        self.success = success
        self.tokens = capacity
        """What is left now."""
        self._costs = {Verdict.OVERLOAD: throttle, Verdict.CONFLICT: conflict}
        self._costs |= {v: transient for v in Verdict if v not in self._costs}
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds; the tokens stay."""
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"RetryBudget({self.tokens} of {self.capacity} tokens)"

    def cost(self, verdict: Verdict) -> int:
        """Return the tokens of a retry after a failure that means `verdict`."""
        return self._costs[verdict]

    def take(self, tokens: int) -> bool:
        """Return whether there were `tokens` to take; if so, they are taken."""
        with self._lock:
            if tokens > self.tokens:
                return False
            self.tokens -= tokens
            return True

    def give(self, tokens: int) -> None:
        """Put back `tokens`, as many as there is room for."""
        with self._lock:
            self.tokens = min(self.capacity, self.tokens + tokens)
