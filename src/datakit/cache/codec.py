"""Values as bytes, decoded to the type that a function says it returns."""

import contextlib
import inspect
import json
import pickle
import sys
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from hashlib import blake2b
from types import CodeType, NoneType
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from datakit.cache.fidelity import change, is_same
from datakit.errors import CodecError, ConfigError

T = TypeVar("T")

SHAREABLE: Final = frozenset({str, int, float, bool, bytes, NoneType})
"""Types (exactly these) whose values nobody can change, so that one object serves everyone."""

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


class SignedPickle:
    """`Cache(codec=SignedPickle(key))`: any Python object, signed with HMAC-SHA256.

    Whoever knows the key can run code in every process that reads the cache.

    Raises:
        ConfigError: the key is shorter than 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) < 32:
            raise ConfigError("SignedPickle(key): give 32 random bytes or more")
        self.key = key

    def __repr__(self) -> str:
        return "SignedPickle(...)"


CodecName = str | SignedPickle
"""`"msgpack"`, `"json"` or a `SignedPickle`."""


class Codec(Generic[T]):
    """Turns values into bytes, and bytes into values of one type.

    fingerprint: of that type and of the function's version; 0 where nothing is known.
    second: another form that `decode` reads, for values that come back changed from the first.
    """

    __slots__ = ("_decode", "_encode", "_second", "fingerprint")

    def __init__(
        self,
        encode: Encode,
        decode: Decode,
        fingerprint: int = 0,
        second: Encode | None = None,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._second = second
        self.fingerprint = fingerprint

    def encode(self, value: T) -> bytes:
        """Return `value` as bytes that give it back: equal, and of the same types throughout.

        Raises:
            CodecError: it holds something that has no such form. The text tells types and fields.
        """
        payload = _encoded(self._encode, value)
        if self._comes_back(value, payload):
            return payload
        if self._second is not None:
            payload = _encoded(self._second, value)
            if self._comes_back(value, payload):
                return payload
        raise CodecError(
            f"a {type(value).__qualname__} would come back from the cache as something else "
            f"({self._change(value, payload)}): annotate the function with the very type that it "
            "returns; without an annotation only plain dicts, lists, text and numbers come back"
        )

    def _comes_back(self, value: T, payload: bytes) -> bool:
        """Return whether a hit would give what the miss gave."""
        if type(value) in SHAREABLE and self._decode is _PLAIN_DECODE:
            return True
        if self._encode is pickle.dumps:
            return True
        try:
            return is_same([value], [self._decode(payload)])
        except Exception:  # noqa: BLE001 - as above: classes check, and compare, as they like
            return False

    def _change(self, value: T, payload: bytes) -> str:
        """Return what a hit would change."""
        try:
            return f"value{change(value, self._decode(payload))}"
        except Exception as exc:  # noqa: BLE001 - as above; its own text may hold the value
            return type(exc).__name__

    def decode(self, payload: bytes) -> T:
        """Return the value that `payload` holds.

        Raises:
            CodecError: it is of another form or not of the type; the text holds none of it.
        """
        try:
            return cast("T", self._decode(payload))
        except Exception as exc:  # noqa: BLE001 - as above; its own text may hold the value
            raise CodecError(f"not of the type asked for ({type(exc).__name__})") from None

    def adopted(self, value: object) -> T:
        """Return what a value that was stored without its type is to this codec.

        Raises:
            CodecError: it is not of the type.
        """
        return self.decode(_encoded(self._encode, value))

    def copy(self, value: T, payload: bytes) -> T:
        """Return `value`, or an equal one of `payload` where it could be changed by others."""
        return value if type(value) in SHAREABLE else self.decode(payload)


def _encoded(encode: Encode, value: object) -> bytes:
    try:
        return encode(value)
    except Exception as exc:  # a pickled class may raise whatever it likes
        raise CodecError(
            f"a {type(value).__qualname__} cannot be stored ({type(exc).__name__}): return "
            "plain data, a dataclass, a msgspec Struct or what these hold"
        ) from exc


def _encode_with_offsets(value: object) -> bytes:
    """Return msgpack with its times as text: what msgpack itself makes of them is UTC."""
    return _ENCODE["msgpack"](msgspec.to_builtins(value, builtin_types=(bytes, bytearray)))


_PLAIN_DECODE: Final[Decode] = msgspec.msgpack.Decoder().decode
_ENCODE: Final[dict[str, Encode]] = {
    "msgpack": msgspec.msgpack.Encoder().encode,
    "json": msgspec.json.Encoder().encode,
}
_PLAIN: Final[dict[str, Codec[Any]]] = {
    "msgpack": Codec(_ENCODE["msgpack"], _PLAIN_DECODE),
    "json": Codec(_ENCODE["json"], msgspec.json.Decoder().decode),
}


def plain_codec(codec: CodecName) -> Codec[Any]:
    """Return the codec of values about whose type nothing is said.

    Raises:
        ConfigError: there is none of that name.
    """
    if isinstance(codec, SignedPickle):
        return Codec(pickle.dumps, pickle.loads)  # signed by the seal, which looks first
    if codec not in _PLAIN:
        raise ConfigError(
            f"Cache(codec={codec!r}): give 'msgpack', 'json' or SignedPickle(key); unsigned "
            "pickles would let whoever writes to the server run code here"
        )
    return _PLAIN[codec]


def codec_of(
    fn: Callable[..., object], codec: CodecName = "msgpack", version: str = ""
) -> Codec[Any]:
    """Return the codec of what `fn` says it returns; the plain one when it says nothing.

    Raises:
        ConfigError: the annotation cannot be resolved, or values of it cannot be stored.
    """
    name = getattr(_called(fn), "__qualname__", repr(fn))
    return codec_for(returned_by(fn, name), name, codec, version)


def returned_by(fn: Callable[..., object], name: str) -> object:
    """Return the type that `fn` says it returns, Any when it says nothing.

    What it says of its parameters is left alone: they may be imported for type checkers only.

    Raises:
        ConfigError: the annotation cannot be resolved.
    """
    called = _called(fn)
    annotations = getattr(called, "__annotations__", {})
    if "return" not in annotations:
        return Any
    try:
        return _resolved(annotations["return"], called)
    except (NameError, AttributeError, TypeError, SyntaxError) as exc:
        raise ConfigError(
            f"{name}: the return annotation cannot be resolved ({exc}); import what it names "
            "at run time too, or leave the annotation out to store plain msgpack"
        ) from exc


def _called(fn: Callable[..., object]) -> Callable[..., object]:
    """Return the function that a partial calls in the end."""
    while isinstance(fn, partial):
        fn = fn.func
    return fn


def _resolved(returned: object, called: Callable[..., object]) -> object:
    """Return an annotation without text, of which names mean what they mean in the function."""
    if isinstance(returned, type):
        return returned
    written = inspect.unwrap(called)
    outside, inside = getattr(written, "__globals__", {}), _names_inside(written)
    if isinstance(returned, str):
        returned = eval(_compiled(returned), outside, inside)  # noqa: S307 - as typing does
        if isinstance(returned, type):
            return returned

    def bearer() -> None: ...

    bearer.__annotations__ = {"return": returned}
    return typing.get_type_hints(bearer, outside, inside, include_extras=True)["return"]


@lru_cache(maxsize=1000)
def _compiled(annotation: str) -> CodeType:
    """Return the code of an annotation's text; to make it costs more than the rest of a hit."""
    return compile(annotation, "<annotation>", "eval")


def _names_inside(written: Callable[..., object]) -> dict[str, object]:
    """Return what a function knows of the functions around it, and its type parameters."""
    names: dict[str, object] = {
        parameter.__name__: parameter for parameter in getattr(written, "__type_params__", ())
    }
    variables = getattr(getattr(written, "__code__", None), "co_freevars", ())
    for name, cell in zip(variables, getattr(written, "__closure__", None) or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            names[name] = cell.cell_contents
    return names


def codec_for(returned: object, name: str, codec: CodecName, version: str) -> Codec[Any]:
    """Return the codec of a type; `name` is the function's, for errors.

    Raises:
        ConfigError: values of the type cannot be stored.
    """
    plain = plain_codec(codec)
    if isinstance(codec, SignedPickle):
        return Codec(pickle.dumps, pickle.loads, _hash(f"{returned!r}/{version}"))
    if returned is Any or returned is object:
        return Codec(plain._encode, plain._decode, _hash(version) if version else 0)
    try:
        typed = _typed if _is_hashable(returned) else _typed.__wrapped__
        return typed(returned, codec, version)
    except (TypeError, RuntimeError) as exc:  # the latter where pydantic knows no schema
        raise ConfigError(f"{name}: {exc}") from exc


def _is_hashable(returned: object) -> bool:
    """Return False for a type that is annotated with what has no hash."""
    try:
        hash(returned)
    except TypeError:
        return False
    return True


@lru_cache(maxsize=1000)
def _typed(returned: object, codec: str, version: str) -> Codec[Any]:
    """Return the codec of a type, or raise a TypeError that says why there is none."""
    adapter = _pydantic(returned)
    if adapter is not None:
        return _pydantic_codec(adapter, version)
    kind = cast("type[Any]", returned)
    nodes = list(_nodes(msgspec.inspect.type_info(kind), set()))
    unknown = _unknown_type(nodes)
    if unknown is not None:
        raise TypeError(
            f"values of type {unknown} cannot be stored; return a dataclass, a msgspec "
            "Struct, a TypedDict, a NamedTuple or plain data"
        )
    fingerprint = _hash(f"{_schema(kind)}/{version}")
    if codec == "json":
        return Codec(_ENCODE[codec], msgspec.json.Decoder(kind).decode, fingerprint)
    has_times = any(isinstance(node, msgspec.inspect.DateTimeType) for node in nodes)
    second = _encode_with_offsets if has_times else None
    return Codec(_ENCODE[codec], msgspec.msgpack.Decoder(kind).decode, fingerprint, second)


def _pydantic_codec(adapter: Any, version: str) -> Codec[Any]:
    """Return the codec of pydantic's adapter: fields by their names, which no alias hides."""
    encode = partial(adapter.dump_json, by_alias=False, round_trip=True, warnings=False)
    decode = partial(adapter.validate_json, by_alias=True, by_name=True)
    schema = json.dumps(_undescribed(adapter.json_schema(by_alias=False)))
    return Codec(encode, decode, _hash(f"{schema}/{version}"))


def _hash(text: str) -> int:
    """Return a number of 32 bits that is not 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") or 1


def _schema(kind: type[Any]) -> str:
    """Return text that differs when the fields or their types do; docstrings do not count."""
    try:
        return json.dumps(_undescribed(msgspec.json.schema(kind)))
    except TypeError:  # such as a dict with keys that JSON has not
        return repr(kind)


def _undescribed(schema: object) -> object:
    if isinstance(schema, dict):
        return {k: _undescribed(v) for k, v in schema.items() if k != "description"}
    return [_undescribed(item) for item in schema] if isinstance(schema, list) else schema


def _pydantic(returned: object) -> Any:
    """Return pydantic's adapter of a type that holds its models, None when it has none."""
    pydantic = sys.modules.get("pydantic")  # whoever has a model has imported it
    if pydantic is None or "BaseModel" not in _base_names(returned):
        return None
    return pydantic.TypeAdapter(returned)


def _base_names(returned: object) -> set[str]:
    names = {base.__name__ for base in getattr(returned, "__mro__", ())}
    return names.union(*(_base_names(part) for part in typing.get_args(returned)))


def _nodes(node: object, seen: set[int]) -> Iterator[object]:
    """Yield `node` (of msgspec.inspect) and all that is inside it."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for part in _parts(node):
        yield from _nodes(part, seen)


def _unknown_type(nodes: list[object]) -> str | None:
    """Return the first type among `nodes` that msgspec cannot decode."""
    for node in nodes:
        if isinstance(node, msgspec.inspect.CustomType) and node.cls is not object:
            return node.cls.__qualname__
    return None


def _parts(node: object) -> list[object]:
    if isinstance(node, tuple):
        return list(node)
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        return [getattr(node, name) for name in node.__struct_fields__ if name != "default"]
    return []
