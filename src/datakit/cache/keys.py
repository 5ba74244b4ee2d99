"""Keys that differ whenever the arguments differ. Pure.

Every value becomes a token: a letter for its type, then text that says where it ends (a length,
a count or digits), so that no two values share one. A key that is long or holds anything but
printable ASCII is replaced by its readable beginning and a 128-bit hash of the whole.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from types import NoneType
from typing import Any, Final
from uuid import UUID

from datakit.errors import CacheKeyError

MAX_LENGTH: Final = 200
"""Longer keys are hashed. memcached takes 250 bytes (its protocol.txt)."""

READABLE: Final = 120
"""Characters of a hashed key that are kept for the reader."""

SMALL: Final = 10**18
"""Integers below this are written in decimal; `str` refuses very long ones."""


def token(value: object) -> str:
    """Return text that no value of another type or content has.

    Raises:
        CacheKeyError: the value, or one inside it, has no stable form.
    """
    tokenise = _TOKENS.get(type(value))
    if tokenise is not None:
        return tokenise(value)
    return _other(value)


def fit(text: str) -> str:
    """Return `text` as a key that every store takes: short, printable, without spaces."""
    if is_plain(text):
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    readable = "".join(c if "!" <= c <= "~" and c != "#" else "_" for c in text[:READABLE])
    return f"{readable}#{digest}"


def is_plain(text: str) -> bool:
    """Return whether `text` can be a key as it stands ("#" marks the hashed ones)."""
    return (
        0 < len(text) <= MAX_LENGTH
        and text.isascii()
        and text.isprintable()
        and " " not in text
        and "#" not in text
    )


def _int(value: int) -> str:
    return f"i{value}" if -SMALL < value < SMALL else f"x{value:x}"


def _str(value: str) -> str:
    return f"s{len(value)}.{value}"


def _bytes(value: bytes) -> str:
    return f"y{len(value)}.{value.hex()}"


def _datetime(value: datetime) -> str:
    zone = getattr(value.tzinfo, "key", "")  # a ZoneInfo's name: equal offsets can part later
    return f"D{value.isoformat()}/{value.fold}/{_str(str(zone))}"


def _time(value: time) -> str:
    zone = getattr(value.tzinfo, "key", "")
    return f"H{value.isoformat()}/{value.fold}/{_str(str(zone))}"


def _timedelta(value: timedelta) -> str:
    return f"W{value.days}/{value.seconds}/{value.microseconds}"


def _sequence(letter: str, values: Iterable[object]) -> str:
    tokens = [token(value) for value in values]
    return f"{letter}{len(tokens)}({','.join(tokens)})"


def _unordered(letter: str, tokens: Iterable[str]) -> str:
    ordered = sorted(tokens)
    return f"{letter}{len(ordered)}({','.join(ordered)})"


def _dict(value: Mapping[object, object]) -> str:
    return _unordered("d", (f"{token(key)}={token(item)}" for key, item in value.items()))


def _set(value: Iterable[object]) -> str:
    return _unordered("e", map(token, value))


def _frozenset(value: Iterable[object]) -> str:
    return _unordered("z", map(token, value))


_TOKENS: Final[dict[type, Callable[[Any], str]]] = {
    int: _int,
    str: _str,
    bool: lambda value: "T" if value else "F",
    NoneType: lambda _: "N",
    float: lambda value: f"f{value!r}",
    bytes: _bytes,
    tuple: lambda value: _sequence("t", value),
    list: lambda value: _sequence("l", value),
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    UUID: lambda value: f"u{value.hex}",
    Decimal: lambda value: f"m{value}",
    datetime: _datetime,
    date: lambda value: f"A{value.isoformat()}",
    time: _time,
    timedelta: _timedelta,
}


def _other(value: object) -> str:
    """Return the token of an object: its class, then what makes it up."""
    cls = type(value)
    name = _str(f"{cls.__module__}.{cls.__qualname__}")
    own_key = getattr(cls, "__cache_key__", None)
    if own_key is not None:
        return f"k{name}({token(own_key(value))})"
    if isinstance(value, Enum):
        return f"n{name}({_str(value.name)})" if value.name else f"n{name}({token(value.value)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return f"c{name}{_sequence('t', (getattr(value, field.name) for field in fields))}"
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return f"p{name}{_sequence('t', value)}"
    raise CacheKeyError(f"a {cls.__qualname__} has no stable form to build a key of")
