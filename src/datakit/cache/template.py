"""Keys that the user spells: `key="product:{product_id}"`. Pure."""

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from string import Formatter
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from datakit.errors import CacheKeyError, ConfigError

_FORMATTER: Final = Formatter()
_STABLE: Final = (str, int, float, Decimal, UUID, date, datetime, time, Enum, type(None))
_CONVERSIONS: Final = (None, "r", "s", "a")
_ROOT_ENDS: Final = str.maketrans(".[", "  ")

_Part: TypeAlias = tuple[str, str | None, str | None, str | None]
"""Literal text, and the name, format and conversion of the argument after it."""


class Template:
    """Fills the names in braces with a call's arguments.

    Raises:
        ConfigError: it is malformed or names no parameter of the function.
    """

    def __init__(self, text: str, parameters: Mapping[str, object], function: str) -> None:
        self._text = text
        self._function = function
        self._parts = self._parse(text)
        self._escapes = self._separators()
        for _, name, _, _ in self._parts:
            root = (name or "").translate(_ROOT_ENDS).partition(" ")[0]
            if name is not None and root not in parameters:
                raise ConfigError(
                    f"{function}: key={text!r} names {root!r}, which is none of its parameters "
                    f"({', '.join(parameters)})"
                )

    def _parse(self, text: str) -> list[_Part]:
        try:
            parts = list(_FORMATTER.parse(text))
        except ValueError as exc:
            raise ConfigError(f"{self._function}: key={text!r} is malformed: {exc}") from exc
        if any("{" in (spec or "") for _, _, spec, _ in parts):
            raise ConfigError(f"{self._function}: key={text!r}: a format within a format")
        if any(conversion not in _CONVERSIONS for _, _, _, conversion in parts):
            raise ConfigError(f"{self._function}: key={text!r}: after '!' comes r, s or a")
        return parts

    def _separators(self) -> dict[int, str]:
        """Return how to escape, in an argument, what ends it in the key, so that no two collide.

        A key with one argument needs nothing, and is the same for other programs.
        """
        fields = [part for part in self._parts if part[1] is not None]
        between = [literal for literal, _, _, _ in fields[1:]]
        if "" in between:
            raise ConfigError(
                f"{self._function}: key={self._text!r}: put a separator between two arguments"
            )
        ends = {literal[0] for literal in between} | ({"%"} if between else set())
        return {ord(end): f"%{ord(end):02X}" for end in ends}

    def fill(self, arguments: Mapping[str, object]) -> str:
        """Return the key of a call.

        Raises:
            CacheKeyError: a named argument has no stable text.
        """
        return "".join(
            literal if name is None else literal + self._field(name, spec, conversion, arguments)
            for literal, name, spec, conversion in self._parts
        )

    def _field(
        self, name: str, spec: str | None, conversion: str | None, arguments: Mapping[str, object]
    ) -> str:
        try:
            value, _ = _FORMATTER.get_field(name, (), arguments)
        except Exception as exc:  # whatever a property raises
            raise self._refusal(f"there is no {name} in this call", exc) from exc
        if not isinstance(value, _STABLE):
            raise self._refusal(
                f"{name} is a {type(value).__qualname__}, which has no stable text; name a plain "
                "attribute of it, or use ignore= instead of key="
            )
        try:
            converted = _FORMATTER.convert_field(value, cast("Any", conversion))
            text: str = _FORMATTER.format_field(converted, spec or "")
        except Exception as exc:
            kind = type(value).__qualname__
            raise self._refusal(f"{name} is a {kind}, which {spec!r} does not fit", exc) from exc
        return text.translate(self._escapes)

    def _refusal(self, reason: str, cause: Exception | None = None) -> CacheKeyError:
        """Return an error that holds no argument; the text of `cause` may."""
        kind = f" ({type(cause).__name__})" if cause else ""
        return CacheKeyError(f"{self._function}: key={self._text!r}: {reason}{kind}")
