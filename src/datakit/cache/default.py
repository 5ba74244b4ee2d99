"""The cache of `datakit.cache.cached`: the one that DATAKIT_CACHE_URL names, else memory."""

import os
from collections.abc import Callable, Collection
from functools import lru_cache
from types import EllipsisType
from typing import Any

from datakit.cache.cache import Cache, refuse_tags
from datakit.cache.decorator import Decorator, ManyDecorator
from datakit.cache.plan import Fetchers, Options
from datakit.cache.policy import Wishes
from datakit.cache.ttl import Ttl, TtlOf


@lru_cache(maxsize=1)
def default_cache() -> Cache:
    """Return the default cache, made when it is first asked for.

    Raises:
        ConfigError: DATAKIT_CACHE_URL is no cache URL.
    """
    return Cache(os.environ.get("DATAKIT_CACHE_URL") or "memory://")


def _default_fetchers() -> Fetchers:
    return default_cache().fetchers


def cached(
    *,
    ttl: TtlOf,
    none_ttl: Ttl | EllipsisType = ...,
    cache_if: Callable[[Any], bool] | None = None,
    key: str | None = None,
    ignore: Collection[str] = (),
    version: str | int | None = None,
    refresh_ahead: float | None = None,
    stale_while_revalidate: Ttl = 0,
    stale_if_error: Ttl = 0,
    load_timeout: float | None = None,
    soft_load_timeout: float | None = None,
    tags: Collection[str] = (),
) -> Decorator:
    """Return a decorator that keeps a function's results in the default cache.

    That is the one of the environment variable DATAKIT_CACHE_URL, read at the first call of a
    function, else this process's memory. The options are those of `Cache.cached`.

    Raises:
        ConfigError: an option is of no use; raised where the function is decorated.
        CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
    """
    refuse_tags(tags)
    wishes = Wishes(
        ttl,
        none_ttl,
        cache_if,
        refresh_ahead,
        stale_while_revalidate,
        stale_if_error,
        load_timeout,
        soft_load_timeout,
    )
    return Decorator(Options(_default_fetchers, wishes, key, ignore, version))


def cached_many(
    *,
    ttl: TtlOf,
    by: str,
    none_ttl: Ttl | EllipsisType = ...,
    cache_if: Callable[[Any], bool] | None = None,
    key: str | None = None,
    ignore: Collection[str] = (),
    version: str | int | None = None,
    stale_if_error: Ttl = 0,
    load_timeout: float | None = None,
) -> ManyDecorator:
    """Return a decorator for a function of many ids, which uses the default cache.

    The options are those of `Cache.cached_many`.

    Raises:
        ConfigError: an option is of no use; raised where the function is decorated.
        CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
    """
    wishes = Wishes(
        ttl,
        none_ttl,
        cache_if,
        stale_if_error=stale_if_error,
        load_timeout=load_timeout,
    )
    return ManyDecorator(Options(_default_fetchers, wishes, key, ignore, version), by)
