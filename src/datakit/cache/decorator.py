"""`cached(...)`: from options and a function to a cached function."""

import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from datakit.cache.bound import OfClass
from datakit.cache.function import CachedFunction
from datakit.cache.function_async import AsyncCachedFunction
from datakit.cache.many import CachedMany, ManyMethod
from datakit.cache.many_async import AsyncCachedMany, AsyncManyMethod
from datakit.cache.plan import IgnoreCls, Options
from datakit.cache.signature import is_in_class_body
from datakit.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S")
Ignored = TypeVar("Ignored", covariant=True)

CLASSMETHOD_CHAINS: Final = sys.version_info < (3, 13)
"""Whether `classmethod` asks what it is put on to bind itself. Source: What's New in Python 3.13,
"Changes in the Python API"."""


if TYPE_CHECKING:

    class CachedClassMethod(Protocol[P, R]):
        """A cached function that `@classmethod` is to be put on; a class has the function."""

        def __call__(self, cls: type, /, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return what the function of `cls` does."""
            ...

        def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[P, R]: ...

    class AsyncCachedClassMethod(Protocol[P, R]):
        """The same of an `async def`."""

        async def __call__(self, cls: type, /, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return what the function of `cls` does."""
            ...

        def __get__(
            self, instance: object, owner: type | None = None
        ) -> AsyncCachedFunction[P, R]: ...


class Decorator(Generic[Ignored]):
    """Keeps the results of the function that it is put on; made by `cached`.

    Type checkers know one for a class method by the type of its `ignore`.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: "Decorator[IgnoreCls]",
        fn: Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]],
    ) -> "AsyncCachedClassMethod[P, R]": ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self: "Decorator[IgnoreCls]", fn: Callable[Concatenate[type[S], P], R]
    ) -> "CachedClassMethod[P, R]": ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]]
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> CachedFunction[P, R]: ...
    def __call__(self, fn: Callable[..., Any]) -> object:
        """Return the cached function.

        Raises:
            ConfigError: it is no plain function, or an option does not fit it.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        return _placed(fn, self._cached)

    def _cached(self, fn: Callable[..., Any]) -> object:
        options = self._options.for_function(fn)
        return (AsyncCachedFunction if _is_async(fn) else CachedFunction)(fn, options)


class ManyDecorator:
    """Keeps the results of a function of many ids, one by one; made by `cached_many`."""

    def __init__(self, options: Options, by: str) -> None:
        self._options = options
        self._by = by

    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[Concatenate[list[K], P], Coroutine[Any, Any, Mapping[K, V]]]
    ) -> AsyncCachedMany[K, V, P]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[list[K], P], Mapping[K, V]]
    ) -> CachedMany[K, V, P]: ...
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[Concatenate[S, list[K], P], Coroutine[Any, Any, Mapping[K, V]]]
    ) -> AsyncManyMethod[K, V, P]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[S, list[K], P], Mapping[K, V]]
    ) -> ManyMethod[K, V, P]: ...
    def __call__(self, fn: Callable[..., Any]) -> object:
        """Return the cached function.

        Raises:
            ConfigError: it is no plain function whose first parameter (after `self`) has the ids,
                or an option does not fit it.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        return _placed(fn, self._cached)

    def _cached(self, fn: Callable[..., Any]) -> object:
        options = self._options.for_function(fn)
        names = list(options.rule.signature.parameters)
        if names[:1] == [self._by]:
            kind: Any = AsyncCachedMany if _is_async(fn) else CachedMany
            return kind(fn, options)
        if names[1:2] == [self._by] and names[0] in ("self", "cls"):
            return (AsyncManyMethod if _is_async(fn) else ManyMethod)(fn, options)
        raise ConfigError(
            f"cached_many(by={self._by!r}): that must be the first parameter of "
            f"{options.rule.name}, which has ({', '.join(names)})"
        )


def options_by_name(example: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return what makes `cached` and its like refuse to be put on a function without options.

    example: of options that do.
    """

    def refusing(cached: Callable[P, R]) -> Callable[P, R]:
        owners = [name for name in inspect.signature(cached).parameters if name == "self"]
        name = getattr(cached, "__name__", "cached")

        @wraps(cached)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) > len(owners):
                raise ConfigError(f"@{name} needs its options, by name: @{name}({example})")
            return cached(*args, **kwargs)

        return checked

    return refusing


def _placed(fn: object, cached: Callable[[Callable[..., Any]], object]) -> object:
    """Return what `cached` makes of a function, or of that of a class method."""
    if isinstance(fn, classmethod):
        _refuse_others(fn.__func__)
        return OfClass(cached(fn.__func__))
    _refuse_others(fn)
    assert inspect.isfunction(fn)
    if not CLASSMETHOD_CHAINS and _looks_like_a_class_method(fn):
        raise ConfigError(
            f"{fn.__qualname__}: put @cached above @classmethod; below it, from Python 3.13 on, "
            "invalidate and its like would not know the class"
        )
    return cached(fn)


def _looks_like_a_class_method(fn: FunctionType) -> bool:
    if fn.__name__.startswith("__"):  # such as __class_getitem__, a class method of itself
        return False
    return is_in_class_body(fn) and next(iter(inspect.signature(fn).parameters), "") == "cls"


def _is_async(fn: Callable[..., object]) -> bool:
    """Return whether calls are to be awaited, also behind decorators that use functools.wraps."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(inspect.unwrap(fn))


def _refuse_others(fn: object) -> None:
    if isinstance(fn, staticmethod | property):
        raise ConfigError(
            f"cached: put @{type(fn).__name__} above @cached, so that it gets the function"
        )
    if not inspect.isfunction(fn):
        raise ConfigError(f"cached: a {type(fn).__qualname__} is no function; wrap it in a def")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(
            f"cached: {fn.__qualname__} is a generator, whose results run out; return a list"
        )
