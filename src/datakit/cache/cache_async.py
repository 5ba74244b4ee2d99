"""The cache of tasks."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from datakit.cache.codec import PLAIN, Codec, codec_of
from datakit.cache.core import MISS, UNASKED, Core
from datakit.cache.fetch_async import AsyncFetcher
from datakit.cache.ttl import Ttl, TtlOf, lifetime

T = TypeVar("T")


class AsyncCache:
    """`Cache.aio`: what `Cache` does, awaitable. Connections belong to the running loop."""

    def __init__(self, core: Core, fetcher: AsyncFetcher) -> None:
        self._core = core
        self._fetcher = fetcher

    async def get(self, key: str) -> Any:
        """Return the value under `key`; None when there is none, or the cache cannot be asked.

        It is what msgpack holds: dicts, lists, text, numbers, bytes. `get_or_load` and `cached`
        decode to types.
        """
        found = await self._fetcher.read(self._core.key(key), PLAIN)
        return None if found is MISS or found is UNASKED else found

    async def set(self, key: str, value: object, ttl: Ttl) -> None:
        """Store `value` for `ttl`, or up to a tenth less. 0 or less removes what is there.

        Raises:
            CodecError: the value has no msgpack form.
            CacheUnavailableError: the server did not take it; see `delete`.
            ConfigError: `ttl` is none of its forms.
        """
        await self._fetcher.store(self._core.key(key), PLAIN, lifetime(ttl), value)

    async def delete(self, key: str) -> None:
        """Remove what is stored under `key`; a load of it under way will not be stored.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation of it gets through.
        """
        await self._fetcher.remove(self._core.key(key))

    async def get_or_load(self, key: str, loader: Callable[[], Awaitable[T]], ttl: TtlOf) -> T:
        """Return the value under `key`, else what `await loader()` returns, stored for `ttl`.

        Callers of one key share one load. The value is decoded to the return annotation of
        `loader`, where it has one.

        Raises:
            OverloadError: the cache cannot be asked and `max_loads` loads run already.
            ConfigError: `ttl` is none of its forms, or the annotation cannot be stored.
        """
        codec: Codec[T] = codec_of(loader)
        return await self._fetcher.fetch(self._core.key(key), codec, lifetime(ttl), loader)

    async def close(self) -> None:
        """Close the running loop's connections (memory:// forgets everything); the next use
        opens new ones."""
        await self._fetcher.close()
