"""What the sync and the async side of one cache share: settings, clock, and every decision."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import RLock
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from datakit import events
from datakit._bounded import BoundedDict
from datakit._clock import WaitingClock, uniform
from datakit.cache import keys
from datakit.cache.backends.base import RefusedError
from datakit.cache.codec import SHAREABLE, Codec
from datakit.cache.entry import (
    AHEAD,
    HIT,
    MAX_SKEW,
    MISS,
    STALE,
    UNASKED,
    UNSHARED,
    Decision,
    Entry,
    EntryError,
    decide,
    expiry,
)
from datakit.cache.envelope import Envelope
from datakit.cache.nesting import loads
from datakit.cache.policy import LEASE, Policy
from datakit.cache.stats import CacheStats
from datakit.cache.suspects import Suspects
from datakit.cache.ttl import Lifetime, shorten
from datakit.errors import (
    CacheUnavailableError,
    CircuitOpenError,
    CodecError,
    DeadlineExceededError,
    DnsError,
)
from datakit.resilience.bulkhead import Bulkhead
from datakit.resilience.deadlines import deadline
from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")

LOST_FOR: Final = 30.0
"""Seconds after a failure during which loads stay bounded: the server may come back empty."""

GONE_AFTER: Final = 1.0
"""Seconds that a lease is respected while loads are bounded. A server that comes back runs what it
was sent before, for callers that gave up, and what could not be stored has left its lease there:
most holders are gone."""

UNKEPT_FOR: Final = 10.0
"""Seconds for which nobody's load of a key is waited for whose last load here gave nothing to keep:
one would wait for another, each to load again. Source: Varnish's "hit-for-miss"."""

MAX_REMEMBERED: Final = 10_000
"""Keys of which such a thing is remembered."""

ENDINGS: Final = ("fill", "release")
"""Operations that others wait for: asked also when the caller's `deadline` is over."""

RENEWED_AGAIN: Final = 1.0
"""Seconds before a value that could not be loaded anew is tried again by this process."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Stands for the answer of a store that could not be asked."""

    cause: Exception


class Found(NamedTuple, Generic[T]):
    """What a read found. `value` counts unless the decision is MISS or UNASKED."""

    decision: Decision
    value: T | None = None
    entry: Entry | None = None


NOTHING: Final = Found[Any](MISS)
NO_ANSWER: Final = Found[Any](UNASKED)


class Core:
    """The state of one cache. Nothing here waits, so threads and tasks use it alike.

    envelope: None for memory://, which keeps entries themselves.
    queues: whether an invalidation that failed is only tried again, and not raised.
    """

    def __init__(
        self,
        *,
        namespace: str,
        envelope: Envelope | None,
        bulkhead: Bulkhead,
        queues: bool,
        clock: WaitingClock,
    ) -> None:
        self.prefix = f"{namespace}:" if namespace else ""
        self.clock = clock
        self.wall = clock.wall
        self.monotonic = clock.monotonic
        self.envelope = envelope
        self.is_dated = envelope is None or envelope.is_dated
        """Whether what is stored tells its age."""
        self.bulkhead = bulkhead
        self.queues = queues
        self.suspects = Suspects()
        self.stats = CacheStats()
        self.distrusted_until = -1.0
        """Entries stored before this wall-clock second are not served: too many doubts at once."""
        self.lost_until = 0.0
        """The monotonic second until which loads are bounded."""
        self.limit = math.inf
        """Bytes that the store takes under a key; known once it is open."""
        self.start_anew()
        renew_after_fork(self)
        self.ticks = count()
        """Tells what came first, in all threads and tasks."""
        self._leases: BoundedDict[str, float] = BoundedDict(MAX_REMEMBERED)
        """Seconds, of keys whose loads take long and whose function is not known."""
        self.forgetters: list[Callable[[str], None]] = []
        """What keeps later callers of a key from joining a load of it, on both sides."""

    def start_anew(self) -> None:
        """Forget who loads what; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # what the garbage collector ends may end a renewal while we hold it
        self._renewals: dict[str, float] = {}
        """Until when those under way count."""
        self._renewed: BoundedDict[str, float] = BoundedDict(MAX_REMEMBERED)
        """Until when those that ended are not begun again."""
        self._unkept: BoundedDict[str, float] = BoundedDict(MAX_REMEMBERED)

    def key(self, name: str) -> str:
        """Return the key under which the store knows what the user calls `name`."""
        return keys.fit(self.prefix + name)

    @contextmanager
    def policy(self, key: str, codec: Codec[T], ttl: Lifetime) -> Generator[Policy[T], None, None]:
        """Give a policy for one call, that knows what earlier loads of the key took."""
        policy = Policy(codec, ttl, lease=self._leases.get(key, LEASE))
        try:
            yield policy
        finally:
            if policy.lease > LEASE:
                self._leases[key] = policy.lease

    def judge(self, key: str, stored: Any, policy: Policy[T], *, again: bool = False) -> Found[T]:
        """Return what to do with what a store answered. again: its faults have been told."""
        if stored is None:
            return NOTHING
        if type(stored) is Failed:
            return NO_ANSWER
        try:
            entry, decision = self.opened(key, stored, policy)
            if decision is MISS:
                return NOTHING
            return Found(decision, value_of(entry, policy.codec), entry)
        except (EntryError, CodecError) as exc:
            return NOTHING if again else self.rejected(key, str(exc))

    def opened(self, key: str, stored: Any, policy: Policy[Any]) -> tuple[Entry, Decision]:
        """Return the entry in what a store holds, and what to do with it.

        Raises:
            EntryError: it is none of this key, type and version.
        """
        entry = stored if self.envelope is None else self.envelope.unpack(stored, key)
        fingerprint = policy.codec.fingerprint
        if entry.fingerprint != fingerprint and entry.fingerprint and fingerprint:
            raise EntryError("of another return type or version")
        now = self.wall()
        if (entry.stored_at if self.is_dated else now) <= self.distrusted_until:
            return entry, MISS
        return entry, decide(entry, now, policy.freshness)

    def count(self, key: str, decision: Decision) -> None:
        """Count a read, and tell who subscribed."""
        if decision is HIT or decision is AHEAD:
            self.stats.hits += 1
            events.emit(events.CacheHit, key)
        elif decision is STALE:
            self.served_stale(key)
        elif decision is not UNASKED:
            self.stats.misses += 1
            events.emit(events.CacheMiss, key)

    def served_stale(self, key: str) -> None:
        """Count a value served past its time."""
        self.stats.stale += 1
        events.emit(events.CacheStaleServed, key)

    def entry(self, value: object, payload: bytes, seconds: float, codec: Codec[Any]) -> Entry:
        """Return the entry to store for `seconds`, shortened by jitter."""
        now = self.wall()
        fresh_until = expiry(now, shorten(seconds, uniform(0.0, 1.0)))
        if self.envelope is None and type(value) in SHAREABLE:
            return Entry(now, fresh_until, b"", codec.fingerprint, value)
        return Entry(now, fresh_until, payload, codec.fingerprint)

    def stored(self, key: str, entry: Entry, kept: float) -> tuple[str, Any, float]:
        """Return the key, what to store under it, and for how many seconds.

        kept: seconds past its time that the entry may still be served.

        Raises:
            CodecError: it is larger than the store takes.
        """
        seconds = entry.fresh_until - entry.stored_at + kept
        raw = None if self.envelope is None else self.envelope.pack(entry, key)
        size = entry.size(key) if raw is None else len(raw)
        if size > self.limit:
            raise CodecError(f"{size} bytes, and the store takes {self.limit:.0f} at most")
        return key, entry if raw is None else raw, seconds

    def payload(self, key: str, codec: Codec[T], value: T) -> bytes | None:
        """Return the bytes of a loaded value, None (and an event) when it has no such form."""
        try:
            return codec.encode(value)
        except CodecError as exc:
            self.rejected(key, str(exc))
            return None

    def seconds_for(self, key: str, policy: Policy[T], value: T) -> float:
        """Return the seconds that a loaded value may live, 0 (and an event) when its rules fail."""
        try:
            return policy.seconds_for(value)
        except CodecError as exc:
            self.rejected(key, str(exc))
            return 0.0

    def rejected(self, key: str, reason: str) -> Found[Any]:
        """Tell that what is stored under `key`, or was to be, is no use."""
        self.stats.rejected += 1
        events.emit(events.CacheValueRejected, key, reason)
        return NOTHING

    def failed(self, operation: str, exc: Exception) -> Failed:
        """Tell that an operation failed and the work goes on without the cache."""
        self.stats.unavailable += 1
        if operation in ENDINGS or not isinstance(exc, RefusedError | DeadlineExceededError):
            self.lost_until = self.monotonic() + LOST_FOR
        if not isinstance(exc, CircuitOpenError):  # the breaker has told it once
            events.emit(events.CacheUnavailable, operation, describe(exc))
        return Failed(exc)

    def is_bounded(self, *, asked: bool) -> bool:
        """Return whether a load must wait for its turn: the cache is lost, or was a moment ago.

        A load inside another one has its turn already.
        """
        if asked and self.monotonic() >= self.lost_until:
            return False
        return all(cache != id(self) for cache, _ in loads())

    def patience(self, lease: float) -> float:
        """Return the seconds to wait for whoever holds a lease of `lease` seconds: half of what is
        left of the enclosing `deadline` at most, since the holder may be gone."""
        patience = min(lease, GONE_AFTER) if self.monotonic() < self.lost_until else lease
        left = deadline.remaining()
        return patience if left is None else min(patience, left / 2)

    def note_kept(self, key: str, *, is_kept: bool) -> None:
        """Remember whether a load gave something to keep."""
        if is_kept:
            self._unkept.pop(key, None)
        else:
            self._unkept[key] = self.monotonic() + UNKEPT_FOR

    def is_unkept(self, key: str) -> bool:
        """Return whether the last load of `key` gave nothing to keep, a moment ago."""
        return bool(self._unkept) and self._unkept.get(key, 0.0) > self.monotonic()

    def seizes(self, waited_until: float) -> bool:
        """Return whether to take a lease from its holder, who is waited for no more."""
        return waited_until <= self.monotonic() < self.lost_until

    def is_loading(self, key: str) -> bool:
        """Return whether we are inside the load of this very key."""
        return (id(self), key) in loads()

    def begin_renewal(self, key: str, lease: float) -> bool:
        """Return whether a value still served is to be loaded anew by the caller, behind others'
        backs: nobody does it, nobody failed to within the last second, and not too many do.

        lease: seconds after which it counts as given up, as by a loop that was closed.
        """
        now = self.monotonic()
        if self._renewals.get(key, 0.0) > now or self._renewed.get(key, 0.0) > now:
            return False
        with self._lock:
            if len(self._renewals) >= self.bulkhead.limit:
                self._renewals = {k: until for k, until in self._renewals.items() if until > now}
                if len(self._renewals) >= self.bulkhead.limit:
                    return False
            self._renewals[key] = now + lease
        return True

    def end_renewal(self, key: str) -> None:
        """End what `begin_renewal` began."""
        with self._lock:
            self._renewals.pop(key, None)
            self._renewed[key] = self.monotonic() + RENEWED_AGAIN

    def replacement(
        self, values: Mapping[str, T], policy: Policy[T]
    ) -> list[tuple[list[str], tuple[Any, ...]]]:
        """Return the steps that put `values` in place of what is there, each with its keys.

        Raises:
            CodecError: one has no stored form, or a larger one than the store takes.
        """
        items: list[tuple[str, Any, float]] = []
        removed: list[str] = []
        for key, value in values.items():
            payload, seconds = policy.codec.encode(value), policy.seconds_for(value)
            if seconds <= 0:
                removed.append(key)
                continue
            entry = self.entry(value, payload, seconds, policy.codec)
            items.append(self.stored(key, entry, policy.freshness.kept))
        found: list[tuple[list[str], tuple[Any, ...]]] = []
        if items:
            found.append(([item[0] for item in items], ("set", tuple(items))))
        if removed:
            found.append((removed, ("delete", tuple(removed))))
        return found

    def seal_off(self, sealed: Iterable[str]) -> None:
        """Let later callers join no load of these keys, since its lease ends: another process may
        invalidate them from here on."""
        if self.envelope is not None:
            self.forget(sealed)

    def forget(self, forgotten: Iterable[str]) -> None:
        """Let later callers of these keys join no load that is under way."""
        for key in forgotten:
            for forgetter in self.forgetters:
                forgetter(key)

    def doubt(self, doubted: Iterable[str], seconds: float) -> None:
        """Stop serving keys until an invalidation got through, or for `seconds`."""
        now = self.monotonic()
        for key in doubted:
            if not self.suspects.add(key, until=now + seconds, now=now):
                # where nothing says when it was stored, nothing that may be older is served
                doubted_for = MAX_SKEW if self.is_dated else max(seconds, MAX_SKEW)
                self.distrusted_until = max(self.distrusted_until, self.wall() + doubted_for)

    def refused(
        self, operation: str, refused: Sequence[str], exc: Exception
    ) -> CacheUnavailableError:
        """Return the error of an operation that the user asked for and that failed."""
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        return CacheUnavailableError(
            f"{operation} of {refused[0]!r}{more} did not get through: {describe(exc)}. This "
            "process does not serve the key from the cache until an invalidation of it succeeds; "
            "others may. Call it again when the server is back"
        )


def value_of(entry: Entry, codec: Codec[T]) -> T:
    """Return the value of an entry, as what `codec` decodes to.

    Raises:
        CodecError: it is of another form or type.
    """
    if entry.shared is UNSHARED:
        return codec.decode(entry.payload)
    if entry.fingerprint == codec.fingerprint:
        return cast("T", entry.shared)
    return codec.adopted(entry.shared)


def describe(exc: Exception) -> str:
    """Return what failed, without any text that may hold a credential or a value."""
    kind = type(exc).__name__
    if isinstance(exc, OSError | RefusedError | CircuitOpenError | DnsError) or kind in _HARMLESS:
        return f"{kind}: {exc}"
    return kind


_HARMLESS: Final = {"ConnectionError", "TimeoutError", "DeadlineExceededError", "BusyLoadingError"}
"""Errors whose text is about addresses and times. A server's other replies may echo a command."""
