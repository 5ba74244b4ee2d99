"""Figures given to a constructor: one that cannot work is a ConfigError that names it."""

from inspect import iscoroutinefunction
from typing import Final

from datakit.errors import ConfigError

_NUMBERS: Final = (int, float)


def seconds(owner: str, name: str, value: object, *, above_zero: bool = False) -> None:
    """Do nothing when `value` is a length of time.

    Raises:
        ConfigError: it is no number, or below 0 (or 0, where it must be above).
    """
    least = "more than 0" if above_zero else "0 or more"
    in_range = _is_number(value) and (value > 0 if above_zero else value >= 0)  # type: ignore[operator]
    if not in_range:
        raise ConfigError(f"{owner}({name}={value!r}): must be {least} seconds")


def count(owner: str, name: str, value: object, *, least: int = 1) -> None:
    """Do nothing when `value` is a whole number of at least `least`.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{owner}({name}={value!r}): must be a whole number, {least} or more")


def share(owner: str, name: str, value: object) -> None:
    """Do nothing when `value` is above 0 and at most 1.

    Raises:
        ConfigError: it is not.
    """
    if not (_is_number(value) and 0 < value <= 1):  # type: ignore[operator]
        raise ConfigError(f"{owner}({name}={value!r}): must be above 0 and at most 1")


def function(owner: str, name: str, value: object) -> None:
    """Do nothing when `value` can be called.

    Raises:
        ConfigError: it cannot.
    """
    if not callable(value) or iscoroutinefunction(value) or iscoroutinefunction(_call_of(value)):
        raise ConfigError(f"{owner}({name}={value!r}): must be a function, and not an async one")


def _call_of(value: object) -> object:
    return getattr(type(value), "__call__", None)  # noqa: B004 - the method, not whether


def _is_number(value: object) -> bool:
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) < MOST


MOST: Final = 10**15
"""Whole seconds beyond this are a mistake, and more than a float can add to."""
