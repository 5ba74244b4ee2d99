"""Values as msgpack, decoded to the type that a function says it returns."""

import dataclasses
import typing
from collections.abc import Callable
from functools import lru_cache
from types import NoneType
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from datakit.errors import CodecError, ConfigError

T = TypeVar("T")

SHAREABLE: Final = frozenset({str, int, float, bool, bytes, NoneType})
"""Types (exactly these) whose values nobody can change, so that one object serves everyone."""

_encode = msgspec.msgpack.Encoder().encode


class Codec(Generic[T]):
    """Turns values into bytes, and bytes into values of one type."""

    __slots__ = ("_decode",)

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode

    def encode(self, value: T) -> bytes:
        """Return `value` as msgpack.

        Raises:
            CodecError: it holds something that has no msgpack form.
        """
        try:
            payload = _encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise CodecError(
                f"a {type(value).__qualname__} cannot be stored ({type(exc).__name__}): return "
                "plain data, a dataclass, a msgspec Struct or what these hold"
            ) from exc
        if not self._comes_back(value, payload):
            raise CodecError(
                f"a {type(value).__qualname__} would come back from the cache as something else: "
                "annotate the function with the very type that it returns"
            )
        return payload

    def _comes_back(self, value: T, payload: bytes) -> bool:
        """Return whether a hit would give what the miss gave; a subclass would lose its own."""
        try:
            decoded = self._decode(payload)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            return False
        if _is_record(value) and type(decoded) is not type(value):
            return False
        return bool(decoded == value) or _encode(decoded) == payload  # NaN, a tuple for a list

    def decode(self, payload: bytes) -> T:
        """Return the value that `payload` holds.

        Raises:
            CodecError: it is not msgpack or not of the type; the text holds none of it.
        """
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise CodecError(f"not of the type asked for ({type(exc).__name__})") from None

    def copy(self, value: T, payload: bytes | None) -> T:
        """Return `value`, or an equal one of `payload` where it could be changed by others."""
        if payload is None or type(value) in SHAREABLE:
            return value
        return self.decode(payload)


def _is_record(value: object) -> bool:
    return isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value)


PLAIN: Final = Codec[Any](msgspec.msgpack.Decoder().decode)
"""The codec without a type: dicts, lists, text, numbers, bytes, None."""


def codec_of(fn: Callable[..., object]) -> Codec[Any]:
    """Return the codec of what `fn` says it returns; the plain one when it says nothing.

    Raises:
        ConfigError: the annotation cannot be resolved, or values of it cannot be stored.
    """
    if "return" not in getattr(fn, "__annotations__", {}):
        return PLAIN
    name = getattr(fn, "__qualname__", repr(fn))
    try:
        returned = typing.get_type_hints(fn, include_extras=True)["return"]
    except (NameError, AttributeError, TypeError, SyntaxError) as exc:
        raise ConfigError(
            f"{name}: the return annotation cannot be resolved ({exc}); import what it names "
            "at run time too, or leave the annotation out to store plain msgpack"
        ) from exc
    return _codec_for(returned, name)


def _codec_for(returned: object, name: str) -> Codec[Any]:
    try:
        return _typed(returned)
    except TypeError as exc:
        raise ConfigError(f"{name}: {exc}") from exc


@lru_cache(maxsize=1000)
def _typed(returned: object) -> Codec[Any]:
    """Return the codec of a type, or raise a TypeError that says why there is none."""
    if returned is Any or returned is object:
        return PLAIN
    unknown = _unknown_type(msgspec.inspect.type_info(returned), set())
    if unknown is not None:
        raise TypeError(
            f"values of type {unknown} cannot be stored; return a dataclass, a msgspec Struct, "
            "a TypedDict, a NamedTuple or plain data"
        )
    return Codec(msgspec.msgpack.Decoder(cast("type[Any]", returned)).decode)


def _unknown_type(node: object, seen: set[int]) -> str | None:
    """Return the first type inside `node` (of msgspec.inspect) that msgspec cannot decode."""
    if id(node) in seen:
        return None
    seen.add(id(node))
    if isinstance(node, msgspec.inspect.CustomType):
        return None if node.cls is object else node.cls.__qualname__
    for part in _parts(node):
        unknown = _unknown_type(part, seen)
        if unknown is not None:
            return unknown
    return None


def _parts(node: object) -> list[object]:
    if isinstance(node, tuple):
        return list(node)
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        return [getattr(node, name) for name in node.__struct_fields__ if name != "default"]
    return []
