"""This process's memory, bounded by items or bytes; the least recently used one goes first."""

from collections.abc import Callable, Sequence
from itertools import count
from threading import RLock

from cachebox import LRUCache

from datakit._clock import Clock
from datakit.cache.backends.base import AsyncBackend, Fill, Grant, Lease
from datakit.cache.entry import UNSHARED, Entry
from datakit.resilience.forks import renew_after_fork

OVERHEAD = 300
"""Bytes that an entry takes beside its value and its key; measured by benchmarks/cache.py."""


class MemoryBackend:
    """Keeps the entries themselves: nothing is packed, nothing waits.

    limit: how many entries, or how many bytes when `by_bytes`.
    """

    def __init__(self, limit: int, *, by_bytes: bool = False, clock: Clock) -> None:
        self.max_value = float(limit if by_bytes else "inf")
        self.entries: LRUCache[str, Entry] = LRUCache(limit, getsizeof=_size if by_bytes else None)
        self.get: Callable[[str], Entry | None] = self.entries.get
        self._now = clock.monotonic
        self._tokens = count(1)
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget the leases; called in a forked child, whose threads are gone."""
        self._lock = RLock()
        self._leases: dict[str, tuple[int, float]] = {}

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return what is stored under each key."""
        return [self.get(key) for key in keys]

    def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> list[Grant[Entry]]:
        """Take the leases of `keys` for `seconds`, and read them."""
        with self._lock:
            now = self._now()
            return [self._grant(key, now, now + seconds, seize) for key in keys]

    def _grant(self, key: str, now: float, until: float, seize: bool) -> Grant[Entry]:
        _, held_until = self._leases.get(key, (0, 0.0))
        if held_until > now and not seize:
            return Grant(self.get(key), None)
        token = next(self._tokens)
        self._leases[key] = (token, until)
        return Grant(self.get(key), token)

    def fill(self, fills: Sequence[Fill[Entry]]) -> list[bool]:
        """Store what was loaded; return which leases still held."""
        with self._lock:
            return [self._fill(item) for item in fills]

    def _fill(self, item: Fill[Entry]) -> bool:
        if not self._end_lease(item.key, item.lease):
            return False
        self.entries.insert(item.key, item.stored)
        return True

    def _end_lease(self, key: str, lease: Lease) -> bool:
        token, until = self._leases.get(key, (0, 0.0))
        if token != lease:
            return False
        del self._leases[key]
        return until > self._now()

    def release(self, held: Sequence[tuple[str, Lease]]) -> None:
        """Give leases back without a value."""
        with self._lock:
            for key, lease in held:
                self._end_lease(key, lease)

    def set(self, items: Sequence[tuple[str, Entry, float]]) -> None:
        """Store entries; each says itself when it expires."""
        with self._lock:
            for key, entry, _ in items:
                self._leases.pop(key, None)
                self.entries.insert(key, entry)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove what is stored under `keys`, if anything."""
        with self._lock:
            for key in keys:
                self._leases.pop(key, None)
                self.entries.pop(key, None)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._leases.clear()
            self.entries.clear()


def _size(key: str, entry: Entry) -> int:
    value = entry.shared
    own = len(value) if isinstance(value, str | bytes) else 0
    return OVERHEAD + len(key) + (own if value is not UNSHARED else len(entry.payload))


class AsyncMemoryBackend(AsyncBackend[Entry]):
    """The same memory for tasks."""

    def __init__(self, memory: MemoryBackend) -> None:
        self.max_value = memory.max_value
        self._memory = memory

    async def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not."""
        return self._memory.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return what is stored under each key."""
        return self._memory.get_many(keys)

    async def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> list[Grant[Entry]]:
        """Take the leases of `keys` for `seconds`, and read them."""
        return self._memory.acquire(keys, seconds, seize)

    async def fill(self, fills: Sequence[Fill[Entry]]) -> list[bool]:
        """Store what was loaded; return which leases still held."""
        return self._memory.fill(fills)

    async def release(self, held: Sequence[tuple[str, Lease]]) -> None:
        """Give leases back without a value."""
        self._memory.release(held)

    async def set(self, items: Sequence[tuple[str, Entry, float]]) -> None:
        """Store entries; each says itself when it expires."""
        self._memory.set(items)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove what is stored under `keys`, if anything."""
        self._memory.delete(keys)

    async def close(self) -> None:
        """Forget everything."""
        self._memory.close()
