"""One retry layer, one deadline, bounded everything."""

from datakit.resilience.bulkhead import Bulkhead
from datakit.resilience.deadlines import deadline
from datakit.resilience.policy import RetryPolicy
from datakit.resilience.verdict import Verdict

__all__ = ["Bulkhead", "RetryPolicy", "Verdict", "deadline"]
