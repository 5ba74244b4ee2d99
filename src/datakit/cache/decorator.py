"""`cached(...)`: from options and a function to a cached function."""

import inspect
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from datakit.cache.function import CachedFunction
from datakit.cache.function_async import AsyncCachedFunction
from datakit.cache.plan import Fetchers, Options
from datakit.cache.signature import KeyRule
from datakit.cache.ttl import TtlOf, lifetime
from datakit.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


class Decorator:
    """Keeps the results of the function that it is put on; made by `cached`."""

    def __init__(
        self,
        fetchers: Callable[[], Fetchers],
        *,
        ttl: TtlOf,
        key: str | None,
        ignore: Collection[str],
        version: str | int | None,
    ) -> None:
        self._fetchers = fetchers
        self._ttl = lifetime(ttl)
        self._key = key
        self._ignore = ignore
        self._version = version

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
        _refuse_others(fn)
        rule = KeyRule(fn, key=self._key, ignore=self._ignore, version=self._version)
        options = Options(self._fetchers, rule, self._ttl)
        if inspect.iscoroutinefunction(fn):
            return AsyncCachedFunction(fn, options)
        return CachedFunction(fn, options)


def _refuse_others(fn: object) -> None:
    if isinstance(fn, staticmethod | classmethod | property):
        raise ConfigError(
            f"cached: put @{type(fn).__name__} above @cached, so that it gets the function"
        )
    if not inspect.isfunction(fn):
        raise ConfigError(f"cached: a {type(fn).__qualname__} is no function; wrap it in a def")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(
            f"cached: {fn.__qualname__} is a generator, whose results run out; return a list"
        )
