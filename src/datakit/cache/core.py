"""What the sync and the async side of one cache share: settings, clock, and every decision."""

from enum import Enum
from typing import Final, Literal, TypeVar, cast

from datakit import events
from datakit._clock import Clock, uniform
from datakit.cache import keys
from datakit.cache.codec import SHAREABLE, Codec
from datakit.cache.entry import HIT, MAX_SKEW, UNSHARED, Entry, decide, expiry
from datakit.cache.loads import Loads
from datakit.cache.suspects import Suspects
from datakit.cache.ttl import shorten
from datakit.errors import CacheUnavailableError, CodecError
from datakit.resilience.bulkhead import Bulkhead

T = TypeVar("T")


class Absent(Enum):
    """Why a read has no value."""

    MISS = "miss"
    UNASKED = "the cache could not be asked"


MISS: Final = Absent.MISS
UNASKED: Final = Absent.UNASKED


class Core:
    """The state of one cache. Nothing here waits, so threads and tasks use it alike."""

    def __init__(self, *, namespace: str, max_loads: int, clock: Clock) -> None:
        self.prefix = f"{namespace}:" if namespace else ""
        self.wall = clock.wall
        self.monotonic = clock.monotonic
        self.loads = Loads()
        self.suspects = Suspects()
        self.distrusted_until = 0.0
        """Entries stored before this wall-clock second are not served: too many doubts at once."""
        self.bulkhead = Bulkhead(max_loads)

    def key(self, name: str) -> str:
        """Return the key under which the store knows what the user calls `name`."""
        return keys.fit(self.prefix + name)

    def value_of(self, key: str, entry: Entry, codec: Codec[T]) -> T | Literal[Absent.MISS]:
        """Return the value of what was found under `key`, or MISS when it may not be served."""
        if decide(entry, self.wall()) is not HIT or entry.stored_at <= self.distrusted_until:
            return MISS
        if entry.shared is not UNSHARED:
            return cast("T", entry.shared)
        try:
            return codec.decode(entry.payload)
        except CodecError as exc:
            return self.rejected(key, str(exc))

    def entry(self, value: object, payload: bytes, seconds: float) -> tuple[Entry, float]:
        """Return the entry to store and the seconds to keep it, shortened by jitter."""
        seconds = shorten(seconds, uniform(0.0, 1.0))
        now = self.wall()
        shared = value if type(value) in SHAREABLE else UNSHARED
        return Entry(now, expiry(now, seconds), payload, shared), seconds

    def payload(self, key: str, codec: Codec[T], value: T) -> bytes | None:
        """Return the bytes of a loaded value, None (and an event) when it has no such form."""
        try:
            return codec.encode(value)
        except CodecError as exc:
            self.rejected(key, str(exc))
            return None

    def rejected(self, key: str, reason: str) -> Literal[Absent.MISS]:
        """Tell that what is stored under `key`, or was to be, is no use."""
        events.emit(events.CacheValueRejected, key, reason)
        return MISS

    def failed(self, operation: str, exc: Exception) -> Literal[Absent.UNASKED]:
        """Tell that an operation failed and the work goes on without the cache."""
        events.emit(events.CacheUnavailable, operation, describe(exc))
        return UNASKED

    def doubt(self, key: str, seconds: float) -> None:
        """Stop serving `key` until an invalidation got through, or for `seconds`."""
        now = self.monotonic()
        if not self.suspects.add(key, until=now + seconds, now=now):
            self.distrusted_until = self.wall() + MAX_SKEW

    def refused(
        self, operation: str, key: str, seconds: float, exc: Exception
    ) -> CacheUnavailableError:
        """Return the error of an operation that the user asked for and that failed."""
        self.doubt(key, seconds)
        self.failed(operation, exc)
        return CacheUnavailableError(
            f"{operation} of {key!r} did not get through: {describe(exc)}. This process does not "
            "serve the key from the cache until an invalidation of it succeeds; others may. "
            "Call it again when the server is back"
        )


def describe(exc: Exception) -> str:
    """Return what failed, without any text that may hold a credential or a value."""
    kind = type(exc).__name__
    if isinstance(exc, OSError) or kind in _HARMLESS:
        return f"{kind}: {exc}"
    return kind


_HARMLESS: Final = {"ConnectionError", "TimeoutError", "DeadlineExceededError", "BusyLoadingError"}
"""Errors whose text is about addresses and times. A server's other replies may echo a command."""
