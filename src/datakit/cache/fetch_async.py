"""The cache's work for tasks: `fetch`, awaited."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from datakit.cache.backends.base import AsyncBackend
from datakit.cache.backends.opening import Backends
from datakit.cache.claims import Claim, Claims
from datakit.cache.core import ENDINGS, NO_ANSWER, Core, Failed, Found
from datakit.cache.entry import HIT
from datakit.cache.nesting import loading
from datakit.cache.policy import Policy
from datakit.cache.steps import Loaded, Raised, Steps, clear, write
from datakit.cache.steps_many import Many, read_many
from datakit.cache.steps_one import One
from datakit.resilience import deadlines
from datakit.resilience.breaker import CircuitBreaker
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight_async import AsyncSingleFlight
from datakit.resilience.per_loop import PerLoop

T = TypeVar("T")


class _Work:
    """What is under way in one event loop."""

    def __init__(self) -> None:
        self.claims = Claims()
        self.tasks: set[asyncio.Task[Any]] = set()
        """Outside of any caller's cancellation."""
        self.loads: set[asyncio.Task[Any]] = set()


class AsyncFetcher:
    """Reads, loads, stores and removes. Keys are those of the store.

    breaker: None for memory://.
    """

    def __init__(self, core: Core, backends: Backends, breaker: CircuitBreaker | None) -> None:
        self._core = core
        self._backends = backends
        self._breaker = breaker
        self._backend: AsyncBackend | None = None
        self._flight: AsyncSingleFlight[Loaded[Any]] = AsyncSingleFlight()
        self._work = PerLoop(_Work)
        core.forgetters += [self._flight.forget, self._forget_claims]

    def open(self) -> AsyncBackend:
        """Return the backend, the driver imported."""
        self._backend = backend = self._backends.for_tasks()
        self._core.limit = backend.max_value
        return backend

    async def close(self) -> None:
        """Give up the running loop's loads behind callers' backs, and its connections; the next use
        opens new ones."""
        work = self._work.own()
        tasks = list(work.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        given_up = [task for task in work.loads if task.cancelling()]
        await asyncio.gather(*given_up, return_exceptions=True)
        if self._backend is not None:
            await self._backend.close()

    async def ask(self, operation: str, *args: Any) -> Any:
        """Return the store's answer, or `Failed`."""
        backend = self._backend or self.open()
        method = getattr(backend, operation)
        try:
            if self._breaker is None:
                return await method(*args)
            return await self._breaker.acall(method, *args)
        except Exception as exc:  # noqa: BLE001 - a cache that fails is slower, nothing else
            return self._core.failed(operation, exc)

    async def run(self, todo: Steps[T | Raised]) -> T:
        """Take all the steps and return their result, or raise what they end with."""
        try:
            step = next(todo)
            while True:
                try:
                    answer = await self._perform(*step)
                except BaseException as exc:  # noqa: BLE001 - the steps say what becomes of it
                    step = todo.throw(exc)
                else:
                    step = todo.send(answer)
        except StopIteration as stop:
            result = stop.value
        if isinstance(result, Raised):
            raise result.error
        return cast("T", result)

    async def _perform(self, name: str, *args: Any) -> Any:
        match name:
            case "load":
                return await self._load(*args)
            case "fly":
                return await self._fly(*args)
            case "call":
                return await args[0](*args[1:])
            case "sleep":
                return await self._core.clock.asleep(deadline.bound(args[0]))
            case "flies":
                return args[0] in self._flight
            case "behind":
                return self._behind(*args)
            case "soon":
                return await self._soon(*args)
            case "apart":
                return await self._apart(*args)
            case "join":
                return await self._join(*args)
        return await self._ask_to_the_end(name, *args)

    async def _ask_to_the_end(self, name: str, *args: Any) -> Any:
        """Ask, and wait for an answer that others wait for even when the caller gives up."""
        if self._breaker is None or (name != "acquire" and name not in ENDINGS):
            return await self.ask(name, *args)
        token = deadlines.current.set(None) if name in ENDINGS else None
        asked = asyncio.ensure_future(self.ask(name, *args))
        if token is not None:
            deadlines.current.reset(token)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            answer = await asked  # a lease that is granted, or kept, all the same: others wait
            if name == "acquire" and not isinstance(answer, Failed):
                held = [(k, grant.lease) for k, grant in zip(args[0], answer, strict=True)]
                await self.ask("release", [one for one in held if one[1] is not None])
            raise

    async def _load(
        self,
        loader: Callable[[], Awaitable[T]],
        keys: Sequence[str],
        seconds: float | None,
        bounded: bool,
    ) -> T:
        with loading(self._core, keys):
            load = self._core.bulkhead.acall(loader) if bounded else loader()
            return await _within(seconds, load, f"loading {keys[0]!r}")

    async def _fly(
        self, key: str, todo: Callable[[], Steps[Loaded[T] | Raised]], wait: float | None
    ) -> Loaded[T]:
        async def work() -> Loaded[T]:
            task: Any = asyncio.current_task()
            loads = self._work.own().loads
            loads.add(task)
            task.add_done_callback(loads.discard)
            return await self.run(todo())

        return await self._flight.run(key, work, wait=wait)

    def _behind(self, todo: Callable[[], Steps[T | Raised]], then: Callable[[], None]) -> bool:
        self._spawn(todo()).add_done_callback(lambda _: then())
        return True

    async def _soon(self, key: str, todo: Callable[..., Steps[T | Raised]], seconds: float) -> T:
        task = self._spawn(todo())
        await asyncio.wait({task}, timeout=deadline.bound(seconds))
        if not task.done():
            raise over(f"loading {key!r}")
        return task.result()

    async def _apart(
        self, todo: Callable[[], Steps[T | Raised]], key: str, then: Callable[[], None]
    ) -> T:
        task = self._spawn(todo())
        task.add_done_callback(lambda _: then())
        return await _within(deadline.remaining(), asyncio.shield(task), f"loading {key!r}")

    def _spawn(self, todo: Steps[T | Raised]) -> "asyncio.Task[T]":
        """Take the steps outside the caller's deadline and cancellation."""

        tasks = self._work.own().tasks

        async def outside() -> T:
            deadlines.current.set(None)
            return await self.run(todo)

        def end(task: "asyncio.Task[T]") -> None:
            tasks.discard(task)
            if not task.cancelled():
                task.exception()  # read, so that a failure nobody waited for is not logged

        task = asyncio.get_running_loop().create_task(outside())
        tasks.add(task)
        task.add_done_callback(end)
        return task

    async def _join(self, claim: Claim, key: str) -> object:
        what = f"waiting for another to load {key!r}"
        return await _within(deadline.remaining(), asyncio.wrap_future(claim), what)

    def _forget_claims(self, key: str) -> None:
        for work in self._work.all():
            work.claims.forget(key)

    async def read(self, key: str, policy: Policy[T]) -> Found[T]:
        """Return what there is under `key`. Never raises for the server."""
        core = self._core
        if core.suspects.any and key in await self.run(clear(core, (key,))):
            return NO_ANSWER
        found = core.judge(key, await self.ask("get", key), policy)
        core.count(key, found.decision)
        return found

    async def fetch(self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]]) -> T:
        """Return the value under `key`, else what `loader()` gives, run once for all callers."""
        found = await self.read(key, policy)
        if found.decision is HIT:
            return cast("T", found.value)
        return await self.follow(key, policy, loader, found)

    async def follow(
        self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]], found: Found[T]
    ) -> T:
        """Return the value to serve after a read that was no plain hit."""
        return await self.run(One(self._core, key, policy, loader).follow(found))

    async def renew(self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]]) -> T:
        """Return what `loader()` gives now, stored in place of what is there."""
        return await self.run(One(self._core, key, policy, loader).renew())

    async def store(self, operation: str, values: dict[str, T], policy: Policy[T]) -> None:
        """Store values by their keys, in place of what is there; see `Fetcher.store`."""
        if self._backend is None:
            self.open()
        for keys, step in self._core.replacement(values, policy):
            await self.run(write(self._core, operation, keys, step, policy.doubtful))

    async def remove(self, operation: str, keys: Sequence[str], doubtful: float) -> None:
        """Remove what is stored under `keys`; see `Fetcher.remove`."""
        await self.run(write(self._core, operation, keys, ("delete", tuple(keys)), doubtful))

    async def read_many(self, keys: Sequence[str], policy: Policy[T]) -> dict[str, Found[T]]:
        """Return what there is under each key, in one round trip."""
        return await self.run(read_many(self._core, keys, policy))

    async def fetch_many(
        self,
        keys: Sequence[str],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], Awaitable[dict[str, T]]],
    ) -> dict[str, T]:
        """Return the values of `keys`, those that are not there loaded in one run."""
        return await self.run(Many(self._core, self._work.own().claims, policy, loader).fetch(keys))


async def _within(seconds: float | None, work: Awaitable[T], what: str) -> T:
    """Return what `work` gives, unless it takes longer.

    Raises:
        DeadlineExceededError: it does; what: for its text.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError as exc:
        if limit.expired():
            raise over(what) from exc
        raise
