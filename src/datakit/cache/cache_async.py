"""The cache of tasks."""

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from datakit.cache.codec import Codec, codec_of
from datakit.cache.explain import Explanation, explained, plan_of
from datakit.cache.plan import Fetchers
from datakit.cache.policy import Policy
from datakit.cache.ttl import NEVER, Ttl, TtlOf, lifetime

P = ParamSpec("P")
T = TypeVar("T")


class AsyncCache:
    """`Cache.aio`: what `Cache` does, awaitable. Connections belong to the running loop."""

    def __init__(self, fetchers: Fetchers, plain: Policy[Any]) -> None:
        self._core, self._codec, _, self._fetcher = fetchers
        self._plain = plain

    async def get(self, key: str) -> Any:
        """Return the value under `key`; None when there is none, or the cache cannot be asked.

        It is what msgpack holds: dicts, lists, text, numbers, bytes. `get_or_load` and `cached`
        decode to types.
        """
        found = await self._fetcher.read(self._core.key(key), self._plain)
        return found.value

    async def set(self, key: str, value: object, ttl: Ttl) -> None:
        """Store `value` for `ttl`, or up to a tenth less. 0 or less removes what is there.

        Raises:
            CodecError: the value has no stored form that gives it back.
            CacheUnavailableError: the server did not take it; see `delete`.
            ConfigError: `ttl` is none of its forms.
        """
        policy = Policy(self._plain.codec, lifetime(ttl))
        await self._fetcher.store("set", {self._core.key(key): value}, policy)

    async def delete(self, key: str) -> None:
        """Remove what is stored under `key`; a load of it under way will not be stored.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation of it gets through.
        """
        await self._fetcher.remove("delete", (self._core.key(key),), NEVER)

    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[T]], ttl: TtlOf) -> T:
        """Return the value under `key`, else what `await loader()` returns, stored for `ttl`.

        Callers of one key share one load. The value is decoded to the return annotation of
        `loader`, where it has one.

        Raises:
            OverloadError: the cache cannot be asked and `max_loads` loads run already.
            ConfigError: `ttl` is none of its forms, or the annotation cannot be stored.
        """
        codec: Codec[T] = codec_of(loader, self._codec)
        name = self._core.key(key)
        with self._core.policy(name, codec, lifetime(ttl)) as policy:
            return await self._fetcher.fetch(name, policy, loader)

    async def explain(
        self, fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> Explanation:
        """Return what the call `fn(*args, **kwargs)` would find, without running or storing.

        fn: decorated with `cached` of this cache, `def` or `async def`.

        Raises:
            ConfigError: `fn` is not.
            CacheKeyError: an argument has no stable key.
        """
        plan = plan_of(fn, self._core)
        key = plan.build(args, kwargs)
        return explained(self._core, key, await self._fetcher.ask("get", key), plan.policy)

    async def close(self) -> None:
        """Close the running loop's connections (memory:// forgets everything); the next use
        opens new ones. Loads behind callers' backs are cancelled, and waited for until they end."""
        await self._fetcher.close()
