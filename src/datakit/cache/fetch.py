"""The cache's work for threads. What is done is decided in `core` and `steps`; `fetch_async` is its
twin."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from inspect import iscoroutine
from threading import Lock
from typing import Any, TypeVar, cast

from datakit.cache import steps
from datakit.cache.backends.base import Backend
from datakit.cache.backends.opening import Backends
from datakit.cache.claims import ABANDONED, Claims
from datakit.cache.core import ENDINGS, NO_ANSWER, Core, Failed, Found
from datakit.cache.entry import HIT, MISS, SPARE, UNASKED
from datakit.cache.nesting import loading, waits
from datakit.cache.policy import Policy
from datakit.cache.steps import Fate, Loaded, Raised, Steps
from datakit.errors import ConfigError
from datakit.resilience import deadlines
from datakit.resilience.breaker import CircuitBreaker
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import SingleFlight
from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")


class Fetcher:
    """Reads, loads, stores and removes. Keys are those of the store.

    breaker: None for memory://. refresh_threads: how many values may be loaded behind the callers'
    backs at once; with 0 a caller does it.
    """

    def __init__(
        self, core: Core, backends: Backends, breaker: CircuitBreaker | None, refresh_threads: int
    ) -> None:
        self._core = core
        self._backends = backends
        self._breaker = breaker
        self._refresh_threads = refresh_threads
        self.start_anew()
        renew_after_fork(self)
        self._backend: Backend[Any] | None = None
        self._get: Callable[[str], Any] | None = None
        self._flight: SingleFlight[Loaded[Any]] = SingleFlight()
        self._claims = Claims()
        core.forgetters += [self._flight.forget, self._claims.forget]

    def start_anew(self) -> None:
        """Have no refreshing threads; called in a forked child, which they are not in."""
        self._refreshers: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def open(self) -> Backend[Any]:
        """Return the backend, the driver imported."""
        self._backend = self._backends.for_threads()
        return self._backend

    def _opened_get(self) -> Callable[[str], Any]:
        get = self.open().get
        breaker: Any = self._breaker
        self._get = answer = get if breaker is None else partial(breaker.call, get)
        return answer

    def close(self) -> None:
        """Give up connections and refreshing threads; the next use makes new ones."""
        if self._backend is not None:
            self._backend.close()
        with self._lock:
            refreshers, self._refreshers = self._refreshers, None
        if refreshers is not None:
            refreshers.shutdown()

    def ask(self, operation: str, *args: Any) -> Any:
        """Return the store's answer, or `Failed`."""
        backend = self._backend or self.open()
        method = getattr(backend, operation)
        try:
            return method(*args) if self._breaker is None else self._breaker.call(method, *args)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            return self._core.failed(operation, exc)

    def run(self, todo: Steps[T]) -> T:
        """Take all the steps and return their result."""
        try:
            step = next(todo)
            while True:
                try:
                    answer = self._perform(*step)
                except BaseException as exc:  # noqa: BLE001 - the steps say what becomes of it
                    step = todo.throw(exc)
                else:
                    step = todo.send(answer)
        except StopIteration as stop:
            return cast("T", stop.value)

    def _perform(self, name: str, *args: Any) -> Any:
        if name == "load":
            return self._load(*args)
        if name == "sleep":
            return self._core.clock.sleep(deadline.bound(args[0]))
        if name not in ENDINGS:
            return self.ask(name, *args)
        token = deadlines.current.set(None)
        try:
            return self.ask(name, *args)
        finally:
            deadlines.current.reset(token)

    def _load(
        self, loader: Callable[[], T], keys: Sequence[str], seconds: float | None, bounded: bool
    ) -> T:
        token = loading.set(loading.get().union((id(self._core), key) for key in keys))
        try:
            with nullcontext() if seconds is None else deadline(seconds, clock=self._core.clock):
                value = self._core.bulkhead.call(loader) if bounded else loader()
        finally:
            loading.reset(token)
        if iscoroutine(value):
            value.close()
            raise ConfigError(f"loading {keys[0]!r} gave a coroutine: make it an async def")
        return value

    def read(self, key: str, policy: Policy[T]) -> Found[T]:
        """Return what there is under `key`. Never raises for the server."""
        core = self._core
        if core.suspects.any and key in self.run(steps.clear(core, (key,))):
            return NO_ANSWER
        get = self._get or self._opened_get()
        try:
            stored = get(key)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            stored = core.failed("get", exc)
        found = core.judge(key, stored, policy)
        core.count(key, found.decision)
        return found

    def fetch(self, key: str, policy: Policy[T], loader: Callable[[], T]) -> T:
        """Return the value under `key`, else what `loader` returns, run once for all callers."""
        found = self.read(key, policy)
        return (
            cast("T", found.value)
            if found.decision is HIT
            else self.follow(key, policy, loader, found)
        )

    def follow(self, key: str, policy: Policy[T], loader: Callable[[], T], found: Found[T]) -> T:
        """Return the value to serve after a read that was no plain hit."""
        if self._core.is_loading(key):  # inside this very load: it would wait for itself
            return loader()
        if found.decision is MISS or found.decision is UNASKED:
            return self._shared(key, policy, loader, asked=found.decision is MISS)
        if found.decision is SPARE:
            return self._soft(key, policy, loader, found)
        return self._renewed(key, policy, loader, found)

    def _shared(
        self,
        key: str,
        policy: Policy[T],
        loader: Callable[[], T],
        *,
        asked: bool = True,
        newer_than: float | None = None,
        wait: float | None = None,
    ) -> T:
        """Return what one of the callers of `key` finds or loads."""
        mine: list[T] = []

        def work() -> Loaded[T]:
            limit = (self._backend or self.open()).max_value
            todo = steps.settle(
                self._core, key, policy, loader, asked=asked, newer_than=newer_than, limit=limit
            )
            loaded = self.run(todo)
            if isinstance(loaded, Raised):
                raise loaded.error
            mine.append(loaded.value)
            return loaded

        with waits.waiting((id(self._core), key)) as may_wait:
            if not may_wait:
                return loader()
            shared = self._flight.run(key, work, wait=wait)
            if not mine and shared.fate is Fate.OUTRUN:  # by what may have been before our call
                shared = self._flight.run(key, work, wait=wait)
        if mine:
            return mine[0]
        if shared.payload is None:  # it cannot be copied, and is another caller's
            bounded = self._core.is_bounded(asked=asked)
            return self._load(loader, (key,), policy.load_timeout, bounded)
        return policy.codec.copy(shared.value, shared.payload)

    def _soft(self, key: str, policy: Policy[T], loader: Callable[[], T], found: Found[T]) -> T:
        """Load, and serve what is there when that takes longer than the soft timeout."""
        soft = policy.soft_load_timeout
        if soft is None:
            return self._shared(key, policy, loader)
        try:
            if self._refresh_threads and key not in self._flight:
                future = self._submit(key, policy, loader, None)
                return future.result(deadline.bound(soft))
            return self._shared(key, policy, loader, wait=soft)
        except TimeoutError:
            if deadline.remaining() == 0:
                raise
            self._core.served_stale(key)
            return cast("T", found.value)

    def _renewed(self, key: str, policy: Policy[T], loader: Callable[[], T], found: Found[T]) -> T:
        """Serve what is there, and have it loaded anew unless somebody does that already."""
        assert found.entry is not None
        if key in self._flight or not self._core.begin_renewal(key):
            return cast("T", found.value)
        newer_than = found.entry.stored_at
        if self._refresh_threads:
            future = self._submit(key, policy, loader, newer_than)
            future.add_done_callback(lambda _: self._core.end_renewal(key))
            return cast("T", found.value)
        try:
            return self._shared(key, policy, loader, newer_than=newer_than)
        finally:
            self._core.end_renewal(key)

    def _submit(
        self, key: str, policy: Policy[T], loader: Callable[[], T], newer_than: float | None
    ) -> "Future[T]":
        """Load in a thread of our own, outside the caller's deadline."""

        def work() -> T:
            deadlines.current.set(None)
            return self._shared(key, policy, loader, newer_than=newer_than)

        with self._lock:
            if self._refreshers is None:
                self._refreshers = ThreadPoolExecutor(self._refresh_threads, "datakit-refresh")
            return self._refreshers.submit(copy_context().run, work)

    def renew(self, key: str, policy: Policy[T], loader: Callable[[], T]) -> T:
        """Return what `loader` returns now, stored in place of what is there."""
        limit = (self._backend or self.open()).max_value
        loaded = self.run(steps.renew(self._core, key, policy, loader, limit=limit))
        if isinstance(loaded, Raised):
            raise loaded.error
        return loaded.value

    def store(self, operation: str, values: dict[str, T], policy: Policy[T]) -> None:
        """Store values by their keys, in place of what is there.

        Raises:
            CodecError: one has no stored form.
            CacheUnavailableError: the server did not take them; the keys are in doubt now.
        """
        limit = (self._backend or self.open()).max_value
        for keys, step in self._core.replacement(values, policy, limit):
            self.run(steps.write(self._core, operation, keys, step, policy.doubtful))

    def remove(self, operation: str, keys: Sequence[str], doubtful: float) -> None:
        """Remove what is stored under `keys`; loads under way will not be stored.

        doubtful: seconds after which an older value has certainly expired.

        Raises:
            CacheUnavailableError: the server did not take it; the keys are in doubt now.
        """
        self.run(steps.write(self._core, operation, keys, ("delete", tuple(keys)), doubtful))

    def read_many(self, keys: Sequence[str], policy: Policy[T]) -> dict[str, Found[T]]:
        """Return what there is under each key, in one round trip."""
        core = self._core
        doubted = self.run(steps.clear(core, keys)) if core.suspects.any else ()
        answers = self.ask("get_many", keys) if keys else []
        if isinstance(answers, Failed):
            return dict.fromkeys(keys, NO_ANSWER)
        found = {
            key: NO_ANSWER if key in doubted else core.judge(key, stored, policy)
            for key, stored in zip(keys, answers, strict=True)
        }
        for key, one in found.items():
            core.count(key, one.decision)
        return found

    def fetch_many(
        self,
        keys: Sequence[str],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], dict[str, T]],
    ) -> dict[str, T]:
        """Return the values of `keys`, those that are not there loaded in one run."""
        found = self.read_many(keys, policy)
        values = {k: cast("T", one.value) for k, one in found.items() if one.decision is HIT}
        missing = [key for key in keys if key not in values]
        asked = not any(found[key].decision is UNASKED for key in missing)
        if any(map(self._core.is_loading, missing)):  # inside this very load
            return values | loader(missing)
        is_first = True
        while missing:
            mine, others = self._claims.claim(missing)
            if mine:
                with self._claims.settling(mine) as results:
                    results |= self._loaded_many(list(mine), policy, loader, asked)
                values |= {key: loaded.value for key, loaded in results.items()}
            missing = []
            for key, claim in others.items():
                with waits.waiting((id(self._core), key)) as may_wait:
                    if not may_wait:
                        values |= loader([key])
                        continue
                    if not wait({claim}, deadline.remaining()).done:
                        raise over(f"waiting for another to load {key!r}")
                    loaded = claim.result()
                if loaded is ABANDONED or (loaded and loaded.fate is Fate.OUTRUN and is_first):
                    missing.append(key)
                elif loaded is not None:
                    if loaded.payload is None:  # it cannot be copied, and is another batch's
                        values |= loader([key])
                    else:
                        values[key] = policy.codec.copy(loaded.value, loaded.payload)
            is_first = False
        return values

    def _loaded_many(
        self,
        keys: Sequence[str],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], dict[str, T]],
        asked: bool,
    ) -> dict[str, Loaded[T]]:
        limit = (self._backend or self.open()).max_value
        todo = steps.settle_many(self._core, keys, policy, loader, asked=asked, limit=limit)
        loaded = self.run(todo)
        if isinstance(loaded, Raised):
            raise loaded.error
        return loaded
