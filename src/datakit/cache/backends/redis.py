"""Redis and Valkey for threads."""

from redis.exceptions import ResponseError

from datakit.cache.backends.redis_pool import RedisPool
from datakit.cache.backends.redis_wire import is_other_type, read_get, set_command
from datakit.cache.entry import Entry, EntryError


class RedisBackend:
    """One Redis server."""

    def __init__(self, pool: RedisPool) -> None:
        self._execute = pool.execute
        self.close = pool.close

    def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not.

        Raises:
            EntryError: it is no entry.
        """
        try:
            reply = self._execute("GET", key)
        except ResponseError as exc:
            if is_other_type(exc):
                raise EntryError("not a string") from exc
            raise
        return read_get(reply, key)

    def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry` in place of whatever is there."""
        self._execute(*set_command(key, entry, seconds))

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""
        self._execute("DEL", key)
