"""From a target to its backends; the driver is imported here and not before."""

from threading import Lock
from typing import Any

from datakit._clock import WaitingClock
from datakit.cache.backends.base import AsyncBackend, Backend
from datakit.cache.backends.url import Target
from datakit.resilience.forks import renew_after_fork


class Backends:
    """The sync and the async backend of one cache, made when one of them is first asked for."""

    def __init__(
        self,
        target: Target,
        *,
        timeout: float,
        connect_timeout: float,
        limit: int,
        by_bytes: bool,
        clock: WaitingClock,
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limit = limit
        self._by_bytes = by_bytes
        self._clock = clock
        self._pair: tuple[Backend[Any], AsyncBackend] | None = None
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds while it imports a driver."""
        self._lock = Lock()

    def for_threads(self) -> Backend[Any]:
        """Return the backend to use from threads, always the same."""
        return self._both()[0]

    def for_tasks(self) -> AsyncBackend:
        """Return the backend to use from tasks, always the same."""
        return self._both()[1]

    def _both(self) -> tuple[Backend[Any], AsyncBackend]:
        with self._lock:
            if self._pair is None:
                open_pair = {"memory": self._memory, "memcached": self._memcached}
                self._pair = open_pair.get(self._target.scheme, self._redis)()
            return self._pair

    def _memory(self) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.memory import AsyncMemoryBackend, MemoryBackend

        memory = MemoryBackend(self._limit, by_bytes=self._by_bytes, clock=self._clock)
        return memory, AsyncMemoryBackend(memory)

    def _redis(self) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.redis_dialect import RedisDialect
        from datakit.cache.backends.redis_link import RedisDialler
        from datakit.cache.backends.redis_link_async import AsyncRedisDialler

        limits = {"timeout": self._timeout, "connect_timeout": self._connect_timeout}
        dial = RedisDialler(self._target, **limits)
        adial = AsyncRedisDialler(self._target, **limits)
        return self._remote(RedisDialect(), dial, adial)

    def _memcached(self) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.memcached_dialect import MemcachedDialect
        from datakit.cache.backends.memcached_link import MemcachedDialler
        from datakit.cache.backends.memcached_link_async import AsyncMemcachedDialler

        limits = {"timeout": self._timeout, "connect_timeout": self._connect_timeout}
        dial = MemcachedDialler(self._target, **limits)
        adial = AsyncMemcachedDialler(self._target, self._connect_timeout)
        return self._remote(MemcachedDialect(self._clock), dial, adial)

    def _remote(self, dialect: Any, dial: Any, adial: Any) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.dialect import AsyncRemoteBackend, RemoteBackend
        from datakit.cache.backends.pool import Pool
        from datakit.cache.backends.pool_async import AsyncPool

        name, timeout = str(self._target), self._timeout
        backend: Any = RemoteBackend(dialect, Pool(dial, timeout=timeout))
        return backend, AsyncRemoteBackend(dialect, AsyncPool(adial, timeout=timeout, name=name))
