"""The cache's work for tasks: `fetch`, awaited."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from datakit.cache import steps
from datakit.cache.backends.base import AsyncBackend
from datakit.cache.backends.opening import Backends
from datakit.cache.claims import ABANDONED, Claim, Claims
from datakit.cache.core import ENDINGS, NO_ANSWER, Core, Failed, Found
from datakit.cache.entry import HIT, MISS, SPARE, UNASKED
from datakit.cache.nesting import loading, waits
from datakit.cache.policy import Policy
from datakit.cache.steps import Fate, Loaded, Raised, Steps
from datakit.resilience import deadlines
from datakit.resilience.breaker import CircuitBreaker
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.flight_async import AsyncSingleFlight

T = TypeVar("T")


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
        self._claims = Claims()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loads: set[asyncio.Task[Any]] = set()
        core.forgetters += [self._flight.forget, self._claims.forget]

    def open(self) -> AsyncBackend:
        """Return the backend, the driver imported."""
        self._backend = self._backends.for_tasks()
        return self._backend

    async def close(self) -> None:
        """Give up the running loop's loads behind callers' backs, and its connections; the next use
        opens new ones."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        given_up = [task for task in self._loads if task.get_loop() is loop and task.cancelling()]
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

    async def run(self, todo: Steps[T]) -> T:
        """Take all the steps and return their result."""
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
            return cast("T", stop.value)

    async def _perform(self, name: str, *args: Any) -> Any:
        if name == "load":
            return await self._load(*args)
        if name == "sleep":
            return await self._core.clock.asleep(deadline.bound(args[0]))
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
        token = loading.set(loading.get().union((id(self._core), key) for key in keys))
        try:
            load = self._core.bulkhead.acall(loader) if bounded else loader()
            return await _within(seconds, load, f"loading {keys[0]!r}")
        finally:
            loading.reset(token)

    async def read(self, key: str, policy: Policy[T]) -> Found[T]:
        """Return what there is under `key`. Never raises for the server."""
        core = self._core
        if core.suspects.any and key in await self.run(steps.clear(core, (key,))):
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
        if self._core.is_loading(key):  # inside this very load: it would wait for itself
            return await loader()
        if found.decision is MISS or found.decision is UNASKED:
            return await self._shared(key, policy, loader, asked=found.decision is MISS)
        if found.decision is SPARE:
            return await self._soft(key, policy, loader, found)
        return self._renewed(key, policy, loader, found)

    async def _shared(
        self,
        key: str,
        policy: Policy[T],
        loader: Callable[[], Awaitable[T]],
        *,
        asked: bool = True,
        newer_than: float | None = None,
    ) -> T:
        """Return what one of the callers of `key` finds or loads."""
        mine: list[T] = []

        async def work() -> Loaded[T]:
            task: Any = asyncio.current_task()
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
            limit = (self._backend or self.open()).max_value
            todo = steps.settle(
                self._core, key, policy, loader, asked=asked, newer_than=newer_than, limit=limit
            )
            loaded = await self.run(todo)
            if isinstance(loaded, Raised):
                raise loaded.error
            mine.append(loaded.value)
            return loaded

        with waits.waiting((id(self._core), key)) as may_wait:
            if not may_wait:
                return await loader()
            shared = await self._flight.run(key, work)
            if not mine and shared.fate is Fate.OUTRUN:  # by what may have been before our call
                shared = await self._flight.run(key, work)
        if mine:
            return mine[0]
        if shared.payload is None:  # it cannot be copied, and is another caller's
            bounded = self._core.is_bounded(asked=asked)
            return await self._load(loader, (key,), policy.load_timeout, bounded)
        return policy.codec.copy(shared.value, shared.payload)

    async def _soft(
        self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]], found: Found[T]
    ) -> T:
        """Load, and serve what is there when that takes longer than the soft timeout."""
        soft = policy.soft_load_timeout
        if soft is None:
            return await self._shared(key, policy, loader)
        task = self._spawn(self._shared(key, policy, loader))
        await asyncio.wait({task}, timeout=deadline.bound(soft))
        if task.done():
            return task.result()
        if deadline.remaining() == 0:
            raise over(f"loading {key!r}")
        self._core.served_stale(key)
        return cast("T", found.value)

    def _renewed(
        self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]], found: Found[T]
    ) -> T:
        """Serve what is there, and have it loaded anew unless somebody does that already."""
        assert found.entry is not None
        if key not in self._flight and self._core.begin_renewal(key):
            newer_than = found.entry.stored_at
            task = self._spawn(self._shared(key, policy, loader, newer_than=newer_than))
            task.add_done_callback(lambda _: self._core.end_renewal(key))
        return cast("T", found.value)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Let `work` go on outside the caller's deadline and cancellation."""

        async def outside() -> T:
            deadlines.current.set(None)
            return await work

        def end(task: "asyncio.Task[T]") -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # read, so that a failure nobody waited for is not logged

        task = asyncio.get_running_loop().create_task(outside())
        self._tasks.add(task)
        task.add_done_callback(end)
        return task

    async def renew(self, key: str, policy: Policy[T], loader: Callable[[], Awaitable[T]]) -> T:
        """Return what `loader()` gives now, stored in place of what is there."""
        limit = (self._backend or self.open()).max_value
        loaded = await self.run(steps.renew(self._core, key, policy, loader, limit=limit))
        if isinstance(loaded, Raised):
            raise loaded.error
        return loaded.value

    async def store(self, operation: str, values: dict[str, T], policy: Policy[T]) -> None:
        """Store values by their keys, in place of what is there.

        Raises:
            CodecError: one has no stored form.
            CacheUnavailableError: the server did not take them; the keys are in doubt now.
        """
        limit = (self._backend or self.open()).max_value
        for keys, step in self._core.replacement(values, policy, limit):
            await self.run(steps.write(self._core, operation, keys, step, policy.doubtful))

    async def remove(self, operation: str, keys: Sequence[str], doubtful: float) -> None:
        """Remove what is stored under `keys`; loads under way will not be stored.

        doubtful: seconds after which an older value has certainly expired.

        Raises:
            CacheUnavailableError: the server did not take it; the keys are in doubt now.
        """
        await self.run(steps.write(self._core, operation, keys, ("delete", tuple(keys)), doubtful))

    async def read_many(self, keys: Sequence[str], policy: Policy[T]) -> dict[str, Found[T]]:
        """Return what there is under each key, in one round trip."""
        core = self._core
        doubted = await self.run(steps.clear(core, keys)) if core.suspects.any else ()
        answers = await self.ask("get_many", keys) if keys else []
        if isinstance(answers, Failed):
            return dict.fromkeys(keys, NO_ANSWER)
        found = {
            key: NO_ANSWER if key in doubted else core.judge(key, stored, policy)
            for key, stored in zip(keys, answers, strict=True)
        }
        for key, one in found.items():
            core.count(key, one.decision)
        return found

    async def fetch_many(
        self,
        keys: Sequence[str],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], Awaitable[dict[str, T]]],
    ) -> dict[str, T]:
        """Return the values of `keys`, those that are not there loaded in one run."""
        found = await self.read_many(keys, policy)
        values = {k: cast("T", one.value) for k, one in found.items() if one.decision is HIT}
        missing = [key for key in keys if key not in values]
        asked = not any(found[key].decision is UNASKED for key in missing)
        if any(map(self._core.is_loading, missing)):  # inside this very load
            return values | await loader(missing)
        is_first = True
        while missing:
            mine, others = self._claims.claim(missing)
            if mine:  # in a task: other batches may wait for it when we are cancelled
                task = self._spawn(self._settle_claims(mine, policy, loader, asked))
                results = await _within(
                    deadline.remaining(), asyncio.shield(task), f"loading {missing[0]!r}"
                )
                values |= {key: loaded.value for key, loaded in results.items()}
            missing = []
            for key, claim in others.items():
                with waits.waiting((id(self._core), key)) as may_wait:
                    if not may_wait:
                        values |= await loader([key])
                        continue
                    waited = f"waiting for another to load {key!r}"
                    loaded = await _within(deadline.remaining(), asyncio.wrap_future(claim), waited)
                if loaded is ABANDONED or (loaded and loaded.fate is Fate.OUTRUN and is_first):
                    missing.append(key)
                elif loaded is not None:
                    if loaded.payload is None:  # it cannot be copied, and is another batch's
                        values |= await loader([key])
                    else:
                        values[key] = policy.codec.copy(loaded.value, loaded.payload)
            is_first = False
        return values

    async def _settle_claims(
        self,
        mine: dict[str, Claim],
        policy: Policy[T],
        loader: Callable[[Sequence[str]], Awaitable[dict[str, T]]],
        asked: bool,
    ) -> dict[str, Loaded[T]]:
        limit = (self._backend or self.open()).max_value
        with self._claims.settling(mine) as results:
            todo = steps.settle_many(
                self._core, list(mine), policy, loader, asked=asked, limit=limit
            )
            loaded = await self.run(todo)
            if isinstance(loaded, Raised):
                raise loaded.error
            results |= loaded
        return results


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
