"""Results kept in memory, Redis or Memcached: slower when the cache is lost, never wrong."""

from datakit.cache.cache import Cache
from datakit.cache.cache_async import AsyncCache
from datakit.cache.codec import SignedPickle
from datakit.cache.default import cached, cached_many
from datakit.cache.explain import Explanation
from datakit.cache.stats import CacheStats

__all__ = [
    "Cache", "AsyncCache", "cached", "cached_many", "SignedPickle", "CacheStats", "Explanation",
]  # fmt: skip
