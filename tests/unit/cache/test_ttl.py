"""Lifetimes in all their forms."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache import ttl
from datakit.errors import ConfigError


@pytest.mark.parametrize(
    ("given_ttl", "seconds"),
    [
        (60, 60.0), (0.5, 0.5), (0, 0.0), (-1, -1.0), (timedelta(minutes=2), 120.0),
        ("90s", 90.0), ("5m", 300.0), ("1h", 3600.0), ("1d", 86400.0), ("1.5h", 5400.0),
        (None, math.inf), (1e300, ttl.LONGEST), (timedelta.max, ttl.LONGEST),
    ],
)  # fmt: skip
def test_forms(given_ttl: Any, seconds: float) -> None:
    """Every form comes to seconds; beyond a century it is cut."""
    assert ttl.parse(given_ttl) == seconds


@pytest.mark.parametrize(
    "wrong", ["", "90", "5 m", "1w", "-5m", "m", "1h30m", "٣m", True, math.nan, math.inf, [], b"5m"]
)
def test_everything_else_is_refused(wrong: Any) -> None:
    """With the forms in the message."""
    with pytest.raises(ConfigError, match="timedelta"):
        ttl.parse(wrong)


@given(st.floats(min_value=0, max_value=ttl.LONGEST), st.floats(min_value=0, max_value=1))
def test_jitter_only_shortens(seconds: float, chance: float) -> None:
    """By a tenth at most: no value outlives what was asked."""
    assert seconds * 0.9 <= ttl.shorten(seconds, chance) <= seconds


def test_jitter_leaves_never_alone() -> None:
    """Forever less something is forever."""
    assert ttl.shorten(ttl.NEVER, 1.0) == ttl.NEVER


def test_function_of_the_result() -> None:
    """It may return any form; how long that is at most is not known."""
    life = ttl.lifetime(lambda value: "1m" if value else 0)
    assert (ttl.seconds_for(life, 1), ttl.seconds_for(life, 0)) == (60.0, 0.0)
    assert (ttl.longest(life), ttl.longest(5.0)) == (ttl.NEVER, 5.0)


def test_mistake_shows_at_decoration() -> None:
    """Not at the first call."""
    with pytest.raises(ConfigError):
        ttl.lifetime("soon")
