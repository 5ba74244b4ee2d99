"""From a target to its backends; the driver is imported here and not before."""

from threading import Lock

from datakit.cache.backends.base import AsyncBackend, Backend
from datakit.cache.backends.url import Target


class Backends:
    """The sync and the async backend of one cache, each made when it is first asked for."""

    def __init__(
        self, target: Target, *, timeout: float, connect_timeout: float, max_items: int
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._max_items = max_items
        self._lock = Lock()
        self._sync: Backend | None = None
        self._async: AsyncBackend | None = None

    def for_threads(self) -> Backend:
        """Return the backend to use from threads, always the same."""
        with self._lock:
            if self._sync is None:
                self._open()
            assert self._sync is not None
            return self._sync

    def for_tasks(self) -> AsyncBackend:
        """Return the backend to use from tasks, always the same."""
        with self._lock:
            if self._async is None:
                self._open()
            assert self._async is not None
            return self._async

    def _open(self) -> None:
        if self._target.scheme == "memory":
            self._open_memory()
        else:
            self._open_redis()

    def _open_memory(self) -> None:
        from datakit.cache.backends.memory import MemoryBackend

        self._sync = memory = MemoryBackend(self._max_items)
        self._async = memory.aio

    def _open_redis(self) -> None:
        from datakit.cache.backends.redis import RedisBackend
        from datakit.cache.backends.redis_async import AsyncRedisBackend
        from datakit.cache.backends.redis_async_pool import AsyncRedisPool
        from datakit.cache.backends.redis_pool import RedisPool

        limits = {"timeout": self._timeout, "connect_timeout": self._connect_timeout}
        self._sync = RedisBackend(RedisPool(self._target, **limits))
        self._async = AsyncRedisBackend(AsyncRedisPool(self._target, **limits))
