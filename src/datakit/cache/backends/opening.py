"""From a target to its backends; the driver is imported here and not before."""

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from datakit._clock import WaitingClock
from datakit.cache.backends.base import AsyncBackend, Backend
from datakit.cache.backends.url import Target
from datakit.resilience.forks import renew_after_fork

if TYPE_CHECKING:
    from datakit.dns import AsyncResolver, Resolver


class Backends:
    """The sync and the async backend of one cache, made when one of them is first asked for."""

    def __init__(
        self,
        target: Target,
        *,
        timeout: float,
        connect_timeout: float,
        resolver: "Resolver | AsyncResolver | None",
        limit: int,
        by_bytes: bool,
        clock: WaitingClock,
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._resolver = resolver
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

        dial = partial(RedisDialler, self._target, timeout=self._timeout)
        adial = partial(AsyncRedisDialler, self._target, timeout=self._timeout)
        return self._remote(RedisDialect(), dial, adial)

    def _memcached(self) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.memcached_dialect import MemcachedDialect
        from datakit.cache.backends.memcached_link import MemcachedDialler
        from datakit.cache.backends.memcached_link_async import AsyncMemcachedDialler

        dial = partial(MemcachedDialler, timeout=self._timeout)
        return self._remote(MemcachedDialect(self._clock), dial, AsyncMemcachedDialler)

    def _remote(
        self,
        dialect: Any,
        dialler: Callable[..., Any],
        async_dialler: Callable[..., Any],
    ) -> tuple[Backend[Any], AsyncBackend]:
        from datakit.cache.backends.dialect import AsyncRemoteBackend, RemoteBackend
        from datakit.cache.backends.pool import Pool
        from datakit.cache.backends.pool_async import AsyncPool
        from datakit.cache.backends.route import AsyncRoute, Home, Route
        from datakit.dns import AsyncResolver, Resolver

        given, seconds = self._resolver, self._connect_timeout
        resolver = Resolver() if given is None else Resolver.like(given)
        aresolver = AsyncResolver() if given is None else AsyncResolver.like(given)
        home = Home(self._target.host)
        route = Route(self._target, home, resolver, seconds)
        aroute = AsyncRoute(self._target, home, aresolver, seconds)
        pool = Pool(dialler(route=route), route, self._timeout)
        apool = AsyncPool(async_dialler(route=aroute), aroute, self._timeout, str(self._target))
        backend: Any = RemoteBackend(dialect, pool)
        return backend, AsyncRemoteBackend(dialect, apool)
