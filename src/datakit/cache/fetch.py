"""The cache's work for threads. What is done is decided in `core` and `steps`; here it is done, and
`fetch_async` does it with tasks."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from inspect import iscoroutine
from threading import Lock, local
from typing import Any, TypeVar, cast

from datakit.cache.backends.base import Backend
from datakit.cache.backends.opening import Backends
from datakit.cache.claims import Claim, Claims
from datakit.cache.core import ENDINGS, NO_ANSWER, Core, Found
from datakit.cache.entry import HIT
from datakit.cache.nesting import loading
from datakit.cache.policy import Policy
from datakit.cache.steps import Loaded, Raised, Steps, clear, write
from datakit.cache.steps_many import Many, read_many
from datakit.cache.steps_one import One
from datakit.errors import ConfigError
from datakit.resilience import deadlines
from datakit.resilience.breaker import CircuitBreaker
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight import SingleFlight
from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")

_thread = local()
"""Has `refreshes` in the threads that load behind callers' backs: if one waited for another, there
might be none left to do the work."""


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
        self._backend = backend = self._backends.for_threads()
        self._core.limit = backend.max_value
        return backend

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

    def run(self, todo: Steps[T | Raised]) -> T:
        """Take all the steps and return their result, or raise what they end with."""
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
            result = stop.value
        if isinstance(result, Raised):
            raise result.error
        return cast("T", result)

    def _perform(self, name: str, *args: Any) -> Any:
        match name:
            case "load":
                return self._load(*args)
            case "fly":
                return self._fly(*args)
            case "call":
                return args[0](*args[1:])
            case "sleep":
                return self._core.clock.sleep(deadline.bound(args[0]))
            case "flies":
                return args[0] in self._flight
            case "behind":
                return self._behind(*args)
            case "soon":
                return self._soon(*args)
            case "apart":
                return self._apart(*args)
            case "join":
                return self._join(*args)
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
        limit = nullcontext() if seconds is None else deadline(seconds, clock=self._core.clock)
        with loading(self._core, keys), limit:
            value = self._core.bulkhead.call(loader) if bounded else loader()
        if iscoroutine(value):
            value.close()
            raise ConfigError(f"loading {keys[0]!r} gave a coroutine: make it an async def")
        return value

    def _fly(
        self, key: str, todo: Callable[[], Steps[Loaded[T] | Raised]], wait: float | None
    ) -> Loaded[T]:
        return self._flight.run(key, lambda: self.run(todo()), wait=wait)

    def _behind(self, todo: Callable[[], Steps[T | Raised]], then: Callable[[], None]) -> bool:
        refresh = self._submit(todo)
        if refresh is None:
            return False
        refresh.add_done_callback(lambda _: then())
        return True

    def _soon(self, key: str, todo: Callable[..., Steps[T | Raised]], seconds: float) -> T:
        load = None if key in self._flight else self._submit(todo)
        if load is None:
            return self.run(todo(wait=seconds))
        return load.result(deadline.bound(seconds))

    def _apart(
        self, todo: Callable[[], Steps[T | Raised]], key: str, then: Callable[[], None]
    ) -> T:
        try:
            return self.run(todo())
        finally:
            then()

    def _submit(self, todo: Callable[[], Steps[T | Raised]]) -> "Future[T] | None":
        """Take the steps in a thread of our own, outside the caller's deadline.

        Return None when the caller has to: there is no such thread, it is one itself, or none can
        be started.
        """
        if not self._refresh_threads or getattr(_thread, "refreshes", False):
            return None

        def work() -> T:
            _thread.refreshes = True
            deadlines.current.set(None)
            return self.run(todo())

        with self._lock:
            if self._refreshers is None:
                self._refreshers = ThreadPoolExecutor(self._refresh_threads, "datakit-refresh")
            with suppress(RuntimeError):
                return self._refreshers.submit(copy_context().run, work)
        return None

    def _join(self, claim: Claim, key: str) -> object:
        if not wait({claim}, deadline.remaining()).done:
            raise over(f"waiting for another to load {key!r}")
        return claim.result()

    def read(self, key: str, policy: Policy[T]) -> Found[T]:
        """Return what there is under `key`. Never raises for the server."""
        core = self._core
        if core.suspects.any and key in self.run(clear(core, (key,))):
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
        return self.run(One(self._core, key, policy, loader).follow(found))

    def renew(self, key: str, policy: Policy[T], loader: Callable[[], T]) -> T:
        """Return what `loader` returns now, stored in place of what is there."""
        return self.run(One(self._core, key, policy, loader).renew())

    def store(self, operation: str, values: dict[str, T], policy: Policy[T]) -> None:
        """Store values by their keys, in place of what is there.

        Raises:
            CodecError: one has no stored form.
            CacheUnavailableError: the server did not take them; the keys are in doubt now.
        """
        if self._backend is None:
            self.open()
        for keys, step in self._core.replacement(values, policy):
            self.run(write(self._core, operation, keys, step, policy.doubtful))

    def remove(self, operation: str, keys: Sequence[str], doubtful: float) -> None:
        """Remove what is stored under `keys`; loads under way will not be stored.

        doubtful: seconds after which an older value has certainly expired.

        Raises:
            CacheUnavailableError: the server did not take it; the keys are in doubt now.
        """
        self.run(write(self._core, operation, keys, ("delete", tuple(keys)), doubtful))

    def read_many(self, keys: Sequence[str], policy: Policy[T]) -> dict[str, Found[T]]:
        """Return what there is under each key, in one round trip."""
        return self.run(read_many(self._core, keys, policy))

    def fetch_many(
        self,
        keys: Sequence[str],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], dict[str, T]],
    ) -> dict[str, T]:
        """Return the values of `keys`, those that are not there loaded in one run."""
        return self.run(Many(self._core, self._claims, policy, loader).fetch(keys))
