"""Keys that the user spells: `key="product:{product_id}"`. Pure."""

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from string import Formatter
from typing import Final
from uuid import UUID

from datakit.errors import CacheKeyError, ConfigError

_FORMATTER: Final = Formatter()
_STABLE: Final = (str, int, float, Decimal, UUID, date, datetime, time, Enum, type(None))
_ROOT_ENDS: Final = str.maketrans(".[", "  ")


class Template:
    """Fills the names in braces with a call's arguments.

    Raises:
        ConfigError: it is malformed or names no parameter of the function.
    """

    def __init__(self, text: str, parameters: Mapping[str, object], function: str) -> None:
        self._text = text
        self._function = function
        for name in self._names(text):
            root = name.translate(_ROOT_ENDS).partition(" ")[0]
            if root not in parameters:
                raise ConfigError(
                    f"{function}: key={text!r} names {root!r}, which is none of its parameters "
                    f"({', '.join(parameters)})"
                )

    def _names(self, text: str) -> list[str]:
        try:
            return [name for _, name, _, _ in _FORMATTER.parse(text) if name is not None]
        except ValueError as exc:
            raise ConfigError(f"{self._function}: key={text!r} is malformed: {exc}") from exc

    def fill(self, arguments: Mapping[str, object]) -> str:
        """Return the key of a call.

        Raises:
            CacheKeyError: a named argument has no stable text.
        """
        for name in self._names(self._text):
            value, _ = _FORMATTER.get_field(name, (), arguments)
            if not isinstance(value, _STABLE):
                raise CacheKeyError(
                    f"{self._function}: key={self._text!r}: {name} is a "
                    f"{type(value).__qualname__}, which has no stable text; name a plain "
                    "attribute of it, or use ignore= instead of key="
                )
        return _FORMATTER.vformat(self._text, (), arguments)
