"""One retry layer, one deadline, bounded everything."""

from datakit._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datakit.resilience.breaker import CircuitBreaker
    from datakit.resilience.budget import RetryBudget
    from datakit.resilience.bulkhead import Bulkhead
    from datakit.resilience.deadlines import deadline
    from datakit.resilience.gate import Gate
    from datakit.resilience.hedge import Hedge
    from datakit.resilience.policy import RetryPolicy
    from datakit.resilience.rule import Rule
    from datakit.resilience.verdict import Verdict

__all__ = [
    "Bulkhead",
    "CircuitBreaker",
    "Gate",
    "Hedge",
    "RetryBudget",
    "RetryPolicy",
    "Rule",
    "Verdict",
    "deadline",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CircuitBreaker": "datakit.resilience.breaker",
        "RetryBudget": "datakit.resilience.budget",
        "Bulkhead": "datakit.resilience.bulkhead",
        "deadline": "datakit.resilience.deadlines",
        "Gate": "datakit.resilience.gate",
        "Hedge": "datakit.resilience.hedge",
        "RetryPolicy": "datakit.resilience.policy",
        "Rule": "datakit.resilience.rule",
        "Verdict": "datakit.resilience.verdict",
    },
)
