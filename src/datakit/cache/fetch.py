"""The cache's work for threads. Its decisions are in `core`; `fetch_async` is its twin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from datakit.cache.backends.base import Backend
from datakit.cache.backends.opening import Backends
from datakit.cache.codec import Codec
from datakit.cache.core import MISS, UNASKED, Absent, Core
from datakit.cache.entry import EntryError
from datakit.cache.loads import Load
from datakit.cache.ttl import NEVER, Lifetime, longest, seconds_for
from datakit.resilience.flight import SingleFlight

T = TypeVar("T")


@dataclass(slots=True)
class Loaded(Generic[T]):
    """What one load gives to everyone who waited for it. `payload` is None without such a form."""

    value: T
    payload: bytes | None


class Fetcher:
    """Reads, loads, stores and removes. Keys are those of the store."""

    def __init__(self, core: Core, backends: Backends) -> None:
        self._core = core
        self._backends = backends
        self._backend: Backend | None = None
        self._flight: SingleFlight[Loaded[Any]] = SingleFlight()

    def read(self, key: str, codec: Codec[T]) -> T | Absent:
        """Return the value under `key`, or why there is none. Never raises for the server."""
        backend = self._backend or self._open()
        core = self._core
        if core.suspects.any and not self._cleared(key, backend):
            return UNASKED
        try:
            entry = backend.get(key)
        except EntryError as exc:
            return core.rejected(key, str(exc))
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            return core.failed("get", exc)
        if entry is None:
            return MISS
        return core.value_of(key, entry, codec)

    def fetch(self, key: str, codec: Codec[T], ttl: Lifetime, loader: Callable[[], T]) -> T:
        """Return the value under `key`, else what `loader` returns, run once for all callers."""
        seen = self._core.loads.finished
        found = self.read(key, codec)
        if found is not MISS and found is not UNASKED:
            return found
        return self.load(key, codec, ttl, loader, found, seen)

    def load(
        self,
        key: str,
        codec: Codec[T],
        ttl: Lifetime,
        loader: Callable[[], T],
        absent: Absent,
        seen: int,
    ) -> T:
        """Return what `loader()` returns, run once for all callers of `key`, and store it.

        absent: what `read` found. seen: `loads.finished` from before that read.
        """
        mine: list[T] = []

        def work() -> Loaded[T]:
            again = self._again(key, codec, absent, seen)
            if again is not MISS and again is not UNASKED:
                mine.append(again)
                return Loaded(again, self._core.payload(key, codec, again))
            loaded = self._run(key, codec, ttl, loader, load, asked=again is MISS)
            mine.append(loaded.value)
            return Loaded(loaded.value, loaded.payload)

        load = self._core.loads.join(key)
        try:
            shared = self._flight.run(load, work)
        finally:
            self._core.loads.leave(load)
        return mine[0] if mine else codec.copy(shared.value, shared.payload)

    def _again(self, key: str, codec: Codec[T], absent: Absent, seen: int) -> T | Absent:
        """Read once more where another load ended between our read and our turn."""
        if absent is MISS and self._core.loads.finished != seen:
            return self.read(key, codec)
        return absent

    def _run(
        self,
        key: str,
        codec: Codec[T],
        ttl: Lifetime,
        loader: Callable[[], T],
        load: Load,
        *,
        asked: bool,
    ) -> Loaded[T]:
        value = loader() if asked else self._core.bulkhead.call(loader)
        payload = self._core.payload(key, codec, value)
        if asked and payload is not None:
            self._fill(key, value, payload, seconds_for(ttl, value), load)
        self._core.loads.finish()
        return Loaded(value, payload)

    def _fill(self, key: str, value: object, payload: bytes, seconds: float, load: Load) -> None:
        if seconds <= 0 or load.void:
            return
        backend = self._backend or self._open()
        entry, kept = self._core.entry(value, payload, seconds)
        try:
            backend.set(key, entry, kept)
            if load.void:  # invalidated while it was stored: which came last cannot be told
                backend.delete(key)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            self._core.failed("set", exc)
            if load.void:
                self._core.doubt(key, seconds)
        except BaseException:  # interrupted between storing it and taking it back
            if load.void:
                self._core.doubt(key, seconds)
            raise

    def renew(self, key: str, codec: Codec[T], ttl: Lifetime, loader: Callable[[], T]) -> T:
        """Return what `loader` returns now, stored in place of what is there."""
        loads = self._core.loads
        loads.void(key)
        load = loads.join(key)
        try:
            value = loader()
        finally:
            loads.leave(load)
        payload = self._core.payload(key, codec, value)
        seconds = seconds_for(ttl, value)
        if not load.void:
            self._replace(key, value, payload, seconds, longest(ttl))
        loads.finish()
        return value

    def _replace(
        self, key: str, value: object, payload: bytes | None, seconds: float, doubtful: float
    ) -> None:
        """Store a value that is newer than the stored one; failing that, stop serving the key."""
        try:
            self._write(key, value, payload, seconds)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            self._core.failed("set", exc)
            self._core.doubt(key, doubtful)
        except BaseException:  # interrupted: the server may or may not have taken it
            self._core.doubt(key, doubtful)
            raise

    def _write(self, key: str, value: object, payload: bytes | None, seconds: float) -> None:
        """Put the value in place, or remove what is there where the value must not be stored."""
        core = self._core
        backend = self._backend or self._open()
        suspect = core.suspects.find(key, core.monotonic())
        core.loads.void(key)
        if payload is None or seconds <= 0:
            backend.delete(key)
        else:
            entry, kept = core.entry(value, payload, seconds)
            backend.set(key, entry, kept)
        core.suspects.settle(key, suspect)

    def store(self, key: str, codec: Codec[T], ttl: Lifetime, value: T) -> None:
        """Store `value` in place of what is there.

        Raises:
            CodecError: it has no stored form.
            CacheUnavailableError: the server did not take it; the key is in doubt now.
        """
        payload = codec.encode(value)
        seconds = seconds_for(ttl, value)
        self._backend = self._backend or self._open()
        try:
            self._write(key, value, payload, seconds)
        except Exception as exc:
            raise self._core.refused("set", key, longest(ttl), exc) from exc
        except BaseException:  # interrupted: the server may or may not have taken it
            self._core.doubt(key, longest(ttl))
            raise

    def remove(self, key: str, doubtful: float = NEVER) -> None:
        """Remove what is stored under `key`; a load under way will not be stored.

        doubtful: seconds after which an older value has certainly expired.

        Raises:
            CacheUnavailableError: the server did not take it; the key is in doubt now.
        """
        self._backend = self._backend or self._open()
        try:
            self._write(key, None, None, 0)
        except Exception as exc:
            raise self._core.refused("delete", key, doubtful, exc) from exc
        except BaseException:  # interrupted: the server may or may not have taken it
            self._core.doubt(key, doubtful)
            raise

    def _cleared(self, key: str, backend: Backend) -> bool:
        """Return whether there is no doubt about `key`, once the invalidation is tried again."""
        suspect = self._core.suspects.find(key, self._core.monotonic())
        if suspect is None:
            return True
        try:
            backend.delete(key)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            self._core.failed("delete", exc)
            return False
        self._core.suspects.settle(key, suspect)
        return True

    def _open(self) -> Backend:
        self._backend = self._backends.for_threads()
        return self._backend

    def close(self) -> None:
        """Give up connections; the next use opens new ones."""
        if self._backend is not None:
            self._backend.close()
