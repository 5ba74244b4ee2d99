"""The cache of `datakit.cache.cached`: the one that DATAKIT_CACHE_URL names, else memory."""

import os
from collections.abc import Collection
from functools import lru_cache
from typing import Unpack, overload

from datakit.cache.cache import Cache
from datakit.cache.decorator import Decorator, ManyDecorator, options_by_name
from datakit.cache.plan import (
    CachedOptions,
    ClassMethodOptions,
    Fetchers,
    IgnoreCls,
    ManyOptions,
    Options,
)
from datakit.cache.ttl import TtlOf


@lru_cache(maxsize=1)
def default_cache() -> Cache:
    """Return the default cache, made when it is first asked for.

    Raises:
        ConfigError: DATAKIT_CACHE_URL is no cache URL.
    """
    return Cache(os.environ.get("DATAKIT_CACHE_URL") or "memory://")


def _default_fetchers() -> Fetchers:
    return default_cache().fetchers


@overload
def cached(
    *, ttl: TtlOf, ignore: IgnoreCls, **options: Unpack[ClassMethodOptions]
) -> Decorator[IgnoreCls]: ...
@overload
def cached(*, ttl: TtlOf, **options: Unpack[CachedOptions]) -> Decorator[Collection[str]]: ...
@options_by_name('ttl="5m"')
def cached(*, ttl: TtlOf, **options: Unpack[CachedOptions]) -> Decorator[Collection[str]]:
    """Return a decorator that keeps a function's results in the default cache.

    That is the one of the environment variable DATAKIT_CACHE_URL, read at the first call of a
    function, else this process's memory. The options are those of `Cache.cached`.

    Raises:
        ConfigError: an option is of no use; raised where the function is decorated.
        CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
    """
    return Decorator(Options.given(_default_fetchers, ttl, options, CachedOptions))


@options_by_name('ttl="5m", by="ids"')
def cached_many(*, ttl: TtlOf, by: str, **options: Unpack[ManyOptions]) -> ManyDecorator:
    """Return a decorator for a function of many ids, which uses the default cache.

    The options are those of `Cache.cached_many`.

    Raises:
        ConfigError: an option is of no use; raised where the function is decorated.
        CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
    """
    return ManyDecorator(Options.given(_default_fetchers, ttl, options, ManyOptions), by)
