"""This process's memory, bounded by items; the least recently used one goes first."""

from cachebox import LRUCache

from datakit.cache.entry import Entry


class MemoryBackend:
    """Keeps the entries themselves: nothing is packed, nothing waits."""

    def __init__(self, max_items: int) -> None:
        self._entries: LRUCache[str, Entry] = LRUCache(max_items)
        self.get = self._entries.get
        self.aio = AsyncMemoryBackend(self)

    def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry`; it says itself when it expires."""
        self._entries.insert(key, entry)

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""
        self._entries.pop(key, None)

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()


class AsyncMemoryBackend:
    """The same memory for tasks."""

    def __init__(self, memory: MemoryBackend) -> None:
        self._memory = memory

    async def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not."""
        return self._memory.get(key)

    async def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry`; it says itself when it expires."""
        self._memory.set(key, entry, seconds)

    async def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""
        self._memory.delete(key)

    async def close(self) -> None:
        """Forget everything."""
        self._memory.close()
