"""How long to wait before the next attempt. Pure: the random source is passed in."""

from collections.abc import Callable

Uniform = Callable[[float, float], float]


def full_jitter(attempt: int, base: float, cap: float, uniform: Uniform) -> float:
    """Return the seconds to wait after failed attempt number `attempt` (from 1).

    Uniform between 0 and `min(cap, base * 2 ** (attempt - 1))`.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling = cap if attempt > 63 else min(cap, base * 2.0 ** (attempt - 1))
    return uniform(0.0, ceiling)
