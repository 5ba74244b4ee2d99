"""Redis and Valkey for tasks."""

from redis.exceptions import ResponseError

from datakit.cache.backends.redis_async_pool import AsyncRedisPool
from datakit.cache.backends.redis_wire import is_other_type, read_get, set_command
from datakit.cache.entry import Entry, EntryError


class AsyncRedisBackend:
    """One Redis server."""

    def __init__(self, pool: AsyncRedisPool) -> None:
        self._execute = pool.execute
        self.close = pool.close

    async def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not.

        Raises:
            EntryError: it is no entry.
        """
        try:
            reply = await self._execute("GET", key)
        except ResponseError as exc:
            if is_other_type(exc):
                raise EntryError("not a string") from exc
            raise
        return read_get(reply, key)

    async def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry` in place of whatever is there."""
        await self._execute(*set_command(key, entry, seconds))

    async def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""
        await self._execute("DEL", key)
