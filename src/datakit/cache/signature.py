"""From a call's arguments to its key, with the signature read once."""

import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any, Final

from datakit.cache import keys
from datakit.cache.template import Template
from datakit.errors import CacheKeyError, ConfigError

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_PLAIN: Final = (int, str)
MAX_NAMES: Final = 10_000
"""Keys that one function remembers."""

_VERSION: Final = re.compile(r"[A-Za-z0-9._-]+")


class KeyRule:
    """How the calls of one function are told apart.

    Raises:
        ConfigError: an option names no parameter, or the function cannot be told from others.
        CacheKeyError: a method of a class without a stable key.
    """

    def __init__(
        self,
        fn: Callable[..., object],
        *,
        key: str | None,
        ignore: Collection[str],
        version: str | int | None,
    ) -> None:
        self.name = f"{fn.__module__}.{fn.__qualname__}"
        self.signature = inspect.signature(fn)
        self.ignored = _ignored(ignore, self.signature.parameters, self.name)
        self.version = _version(version, self.name)
        self.template = _template(key, self.signature.parameters, self.name)
        if self.template is None:
            _refuse_lambda(fn, self.name)
            _refuse_keyless_method(fn, self.signature.parameters, self.ignored, self.name)

    def builder(self, prefix: str) -> "KeyBuilder":
        """Return what makes the keys, each beginning with `prefix` (a cache's namespace)."""
        return KeyBuilder(self, prefix)


class KeyBuilder:
    """Makes the key of a call."""

    __slots__ = ("_all_positional", "_head", "_kept", "_prefix", "_rule", "_slots", "names")

    def __init__(self, rule: KeyRule, prefix: str) -> None:
        parameters = rule.signature.parameters.values()
        self._rule = rule
        self._prefix = prefix
        self._head = f"{prefix}{rule.name}:{rule.version}"
        self._slots = [p.name for p in parameters]
        self._all_positional = all(p.kind in _POSITIONAL for p in parameters)
        self._kept = {p.name: f"{p.name}=" for p in parameters if p.name not in rule.ignored}
        self.names: dict[object, str] = {}
        """Keys of calls with one positional argument, an int or a str (exactly), by that."""

    def build(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Return the key of a call.

        Raises:
            CacheKeyError: an argument has no stable form; the message names it.
            TypeError: the arguments do not fit the function.
        """
        if len(args) != 1 or kwargs or type(args[0]) not in _PLAIN:
            return self._build(args, kwargs)
        key = self.names.get(args[0])
        if key is None:
            key = self._build(args, kwargs)
            if len(self.names) >= MAX_NAMES:
                self.names.clear()
            if len(key) < keys.MAX_LENGTH and "#" not in key:  # nothing long is kept alive
                self.names[args[0]] = key
        return key

    def _build(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        arguments = self._bind(args, kwargs)
        if self._rule.template:
            return keys.fit(self._prefix + self._rule.template.fill(arguments))
        parts = [label + self._token(name, arguments[name]) for name, label in self._kept.items()]
        return keys.fit(self._head + ",".join(parts))

    def _bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Mapping[str, object]:
        if self._all_positional and not kwargs and len(args) == len(self._slots):
            return dict(zip(self._slots, args, strict=True))
        bound = self._rule.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def _token(self, name: str, value: object) -> str:
        try:
            return keys.token(value)
        except (CacheKeyError, RecursionError) as exc:
            reason = exc if isinstance(exc, CacheKeyError) else "it holds itself"
            raise CacheKeyError(
                f"{self._rule.name}: argument {name!r}: {reason}; leave it out with "
                f"ignore=({name!r},), spell the key with key='...{{{name}.id}}', or give its "
                "class a __cache_key__ method"
            ) from exc


def _template(key: str | None, parameters: Mapping[str, Any], function: str) -> Template | None:
    if key is None:
        return None
    if not isinstance(key, str):
        raise ConfigError(f"{function}: key={key!r}: give text such as 'product:{{product_id}}'")
    return Template(key, parameters, function)


def _ignored(
    ignore: Collection[str], parameters: Mapping[str, Any], function: str
) -> frozenset[str]:
    if isinstance(ignore, str):
        raise ConfigError(f"{function}: ignore={ignore!r}: give a tuple, as in ({ignore!r},)")
    if not isinstance(ignore, Collection) or not all(isinstance(name, str) for name in ignore):
        raise ConfigError(f"{function}: ignore={ignore!r}: give a tuple of parameters' names")
    unknown = sorted(set(ignore) - set(parameters))
    if unknown:
        raise ConfigError(
            f"{function}: ignore= names {', '.join(unknown)}, which is none of its parameters"
        )
    return frozenset(ignore)


def _version(version: str | int | None, function: str) -> str:
    if version is None:
        return ""
    if not _VERSION.fullmatch(str(version)):
        raise ConfigError(
            f"{function}: version={version!r}: letters, digits, '.', '_' and '-' only"
        )
    return f"v{version}:"


def _refuse_lambda(fn: Callable[..., object], function: str) -> None:
    if fn.__name__ == "<lambda>":
        raise ConfigError(
            f"{function}: lambdas all have one name and would share their keys; use def, or key="
        )


def _refuse_keyless_method(
    fn: Callable[..., object],
    parameters: Mapping[str, Any],
    ignored: frozenset[str],
    function: str,
) -> None:
    first = next(iter(parameters), "")
    if first not in ("self", "cls") or first in ignored:
        return
    if is_in_class_body(fn) and not _class_body_has_cache_key():
        raise CacheKeyError(
            f"{function}: objects have no stable key; say ignore=({first!r},) when the result "
            "does not depend on the object, spell the key with key=, or define __cache_key__ in "
            "the class above this method (an inherited one by `__cache_key__ = Base.__cache_key__`)"
        )


def is_in_class_body(fn: Callable[..., object]) -> bool:
    """Return whether `fn` was defined there."""
    return "." in fn.__qualname__.rpartition("<locals>.")[2]


def _class_body_has_cache_key() -> bool:
    """Return whether the class body being run, the nearest frame that is one, has the method.

    The class does not exist yet while its methods are decorated, and an error raised later in
    `__set_name__` would reach the user of Python 3.11 as a RuntimeError.
    """
    frame = sys._getframe(1)
    while frame is not None and "__qualname__" not in frame.f_locals:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and "__cache_key__" in frame.f_locals
