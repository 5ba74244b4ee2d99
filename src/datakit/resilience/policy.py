"""The options of a retry and its one decision. Pure."""

from dataclasses import dataclass

from datakit.errors import ConfigError
from datakit.resilience.backoff import Uniform, full_jitter
from datakit.resilience.verdict import COUNTED, UNTIL_DEADLINE, Verdict

OVERLOAD_BASE = 1.0
"""First backoff in seconds when the server is overloaded. Source: botocore 2026 retry mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and for how long an operation is tried.

    attempts: in all, the first included, after a conflict, an overload or refused credentials.
        A lost link or a moved writer is tried until the deadline. (3: botocore's standard mode.)
    base, cap: seconds, the first and the largest ceiling of the full-jitter backoff.
    deadline: seconds from the first attempt, after which none starts.

    Raises:
        ConfigError: a figure is out of range; the message names it.
    """

    attempts: int = 3
    base: float = 0.05
    cap: float = 1.0
    deadline: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"RetryPolicy(attempts={self.attempts!r}): must be 1 or more")
        for name in ("base", "cap", "deadline"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"RetryPolicy({name}={value!r}): must be 0 or more seconds")

    def allows(self, verdict: Verdict, attempt: int) -> bool:
        """Return whether attempt number `attempt`, failed by `verdict`, may have a successor."""
        return verdict in UNTIL_DEADLINE or (verdict in COUNTED and attempt < self.attempts)

    def delay(self, verdict: Verdict, attempt: int, uniform: Uniform) -> float:
        """Return the seconds to wait after failed attempt number `attempt`."""
        base = max(self.base, OVERLOAD_BASE) if verdict is Verdict.OVERLOAD else self.base
        return full_jitter(attempt, base, max(self.cap, base), uniform)
