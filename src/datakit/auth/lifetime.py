"""How long a token may be used. Pure."""

from dataclasses import dataclass, field
from typing import Final

TOKEN_EXPIRES: Final = 900
"""Seconds for which a server takes a token. Source: RDS and ElastiCache documentation."""

CLOCK_SKEW: Final = 300.0
"""Seconds by which the server's clock may differ from ours. Source: AWS Signature Version 4."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token and when it was made, on both clocks (seconds).

    life: seconds for which it may be used.
    """

    value: str = field(repr=False)
    made_at: float
    made_at_wall: float
    life: float


def life_of(expires_at: float | None, wall: float) -> float:
    """Return the seconds for which a token signed at the epoch second `wall` may be used.

    It is good for 900 s by the server's clock, and no longer than the credentials behind it
    (`expires_at`, epoch seconds).
    """
    life = TOKEN_EXPIRES - CLOCK_SKEW
    return life if expires_at is None else max(0.0, min(life, expires_at - wall))


def is_usable(token: Token, now: float, wall: float) -> bool:
    """Return whether `token` may still be used at `now` (monotonic) and `wall` (epoch).

    A frozen process may not advance the first clock. The second may have been set: a token from
    the future was dated by a clock that was wrong.
    """
    age, age_by_wall = now - token.made_at, wall - token.made_at_wall
    return max(age, age_by_wall) < token.life and age_by_wall > -1.0
