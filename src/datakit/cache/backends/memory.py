"""This process's memory, bounded by items or bytes; the least recently used one goes first."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from threading import RLock
from typing import Any, TypeVar

from cachebox import LRUCache

from datakit._clock import Clock
from datakit.cache.backends.base import OPERATIONS, Fill, Grant, Lease
from datakit.cache.entry import Entry
from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")


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
        holder, held_until = self._leases.get(key, (0, 0.0))
        if held_until > now and not seize:
            return Grant(self.get(key), None, holder)
        token = next(self._tokens)
        self._leases[key] = (token, until)
        return Grant(self.get(key), token, token)

    def fill(self, fills: Sequence[Fill[Entry]]) -> list[bool]:
        """Store what was loaded; return which leases nobody else has taken or ended."""
        with self._lock:
            return [self._fill(item) for item in fills]

    def _fill(self, item: Fill[Entry]) -> bool:
        if not self._end_lease(item.key, item.lease):
            return False
        self.entries.insert(item.key, item.stored)
        return True

    def _end_lease(self, key: str, lease: Lease) -> bool:
        if self._leases.get(key, (0, 0.0))[0] != lease:
            return False
        del self._leases[key]
        return True

    def release(self, held: Sequence[tuple[str, Lease]]) -> list[bool]:
        """Give leases back without a value; return as `fill` does."""
        with self._lock:
            return [self._end_lease(key, lease) for key, lease in held]

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
    return entry.size(key)


class AsyncMemoryBackend:
    """The same memory for tasks: a `Backend`, awaitable."""

    def __init__(self, memory: MemoryBackend) -> None:
        self.max_value = memory.max_value
        for name in (*OPERATIONS, "close"):
            setattr(self, name, _awaitable(getattr(memory, name)))


def _awaitable(method: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    async def operation(*args: Any) -> T:
        return method(*args)

    return operation
