"""How long a value lives: the forms a user may write, as seconds. Pure."""

import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

from datakit.errors import ConfigError

Ttl: TypeAlias = float | timedelta | str | None
"""Seconds, a `timedelta`, `"90s" "5m" "1h" "1d"`, or None: never expires."""

Duration: TypeAlias = float | timedelta | str
"""More than 0 seconds, a `timedelta`, or `"0.5s" "1m"`."""

TtlOf: TypeAlias = Ttl | Callable[[Any], Ttl]
"""A `Ttl`, or what makes one of the result."""

Lifetime: TypeAlias = float | Callable[[Any], Ttl]
"""A `TtlOf` with its constant forms already parsed to seconds."""

NEVER = math.inf
"""The seconds of a value that never expires."""

LONGEST = 100 * 365 * 86_400.0
"""More seconds than this are cut down to it: a server's own clock arithmetic overflows later."""

SHORTENED_BY = 0.1
"""The largest part that jitter takes off, so that values stored together part ways."""

_FORMS = "give seconds, a timedelta, or text such as '90s', '5m', '1h', '1d'"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


def parse(ttl: Ttl, name: str = "ttl") -> float:
    """Return the seconds of `ttl`; 0 or less means that nothing is stored.

    name: of the option, for errors.

    Raises:
        ConfigError: it is none of the forms.
    """
    if ttl is None:
        return NEVER
    if isinstance(ttl, timedelta):
        return min(ttl.total_seconds(), LONGEST)
    if isinstance(ttl, str):
        match = _TEXT.fullmatch(ttl)
        if match is not None:
            return min(float(match[1]) * _UNITS[match[2]], LONGEST)
    elif isinstance(ttl, int | float) and not isinstance(ttl, bool) and abs(ttl) < math.inf:
        return float(min(ttl, LONGEST))
    raise ConfigError(f"{name}={ttl!r}: {_FORMS}; None for a value that never expires")


def duration(given: Duration, name: str) -> float:
    """Return the seconds of `given`, the option called `name`.

    Raises:
        ConfigError: it is none of the forms, or not more than 0.
    """
    seconds = 0.0 if given is None else parse(given, name)
    if seconds <= 0:
        raise ConfigError(f"{name}={given!r}: must be more than 0 seconds; {_FORMS}")
    return seconds


def lifetime(ttl: TtlOf) -> Lifetime:
    """Return `ttl` with a constant form parsed now, so that a mistake shows at once.

    Raises:
        ConfigError: it is none of the forms.
    """
    return ttl if callable(ttl) else parse(ttl)


def seconds_for(lifetime: Lifetime, value: object) -> float:
    """Return the seconds that `value` may live.

    Raises:
        ConfigError: the function of the result returned none of the forms.
    """
    return parse(lifetime(value)) if callable(lifetime) else lifetime


def longest(lifetime: Lifetime) -> float:
    """Return the seconds after which a value of this lifetime has certainly expired."""
    return NEVER if callable(lifetime) else lifetime


def shorten(seconds: float, chance: float) -> float:
    """Return `seconds` less 0 to 10 %, as `chance` (in [0, 1]) says."""
    return seconds if seconds == NEVER else seconds * (1.0 - SHORTENED_BY * chance)
