"""Results kept in memory or in Redis: slower when the cache is lost, never wrong."""

from datakit.cache.cache import Cache
from datakit.cache.cache_async import AsyncCache
from datakit.cache.default import cached

__all__ = ["Cache", "AsyncCache", "cached"]
