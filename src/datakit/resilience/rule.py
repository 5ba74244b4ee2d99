"""How failures of one verdict are tried again. Pure."""

from dataclasses import dataclass
from math import inf
from typing import Final

from datakit.resilience import checks
from datakit.resilience.verdict import FINAL, LINK_LOST, Verdict

OVERLOAD_BASE: Final = 1.0
"""First backoff in seconds when the server is overloaded. Source: botocore, standard mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy does after failures of one verdict; None stands for the policy's own figure.

    attempts: in all, the first included; `math.inf` for as many as the deadline allows.
    base, cap: seconds, the first and the largest ceiling of the backoff.
    charged: whether a retry takes tokens of the budget.

    Raises:
        ConfigError: a figure is out of range; the message names it.
    """

    attempts: float | None = None
    base: float | None = None
    cap: float | None = None
    charged: bool = True

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts != inf:
            checks.count("Rule", "attempts", self.attempts)
        for name in ("base", "cap"):
            value = getattr(self, name)
            if value is not None:
                checks.seconds("Rule", name, value)


ONCE: Final = Rule(attempts=1)

DEFAULT: Final = Rule()

DEFAULTS: Final = {Verdict.OVERLOAD: Rule(base=OVERLOAD_BASE)} | dict.fromkeys(FINAL, ONCE)
"""For the verdicts that differ from `DEFAULT`."""

UNTIL_DEADLINE: Final = dict.fromkeys(LINK_LOST, Rule(attempts=inf, charged=False))
"""For an endpoint that fails over in 5 to 60 s, and whose callers are spaced out otherwise."""
