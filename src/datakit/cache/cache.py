"""The cache of threads, and the doors to its async twin and to the decorator."""

import re
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.auth.password import PasswordAuth
from datakit.cache.backends.opening import Backends
from datakit.cache.backends.url import parse_url, with_auth
from datakit.cache.cache_async import AsyncCache
from datakit.cache.codec import PLAIN, Codec, codec_of
from datakit.cache.core import MISS, UNASKED, Core
from datakit.cache.decorator import Decorator
from datakit.cache.fetch import Fetcher
from datakit.cache.fetch_async import AsyncFetcher
from datakit.cache.plan import Fetchers
from datakit.cache.ttl import Ttl, TtlOf, lifetime
from datakit.errors import ConfigError

T = TypeVar("T")

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._-]*")


class Cache:
    """A cache that makes its users slower when it fails, and nothing else.

    Making one opens nothing: no connection, no thread. It may be shared by threads, by the tasks
    of any number of event loops (through `aio`) and by a forked child.

    url: `memory://`, `redis://user:password@host:port/db` or `rediss://...` (verified TLS;
        `?ssl_ca_certs=` names certificates to trust beside the system's).
    namespace: letters, digits, `.`, `_`, `-`; put before every key.
    auth: `ElastiCacheIam(...)`, `SecretAuth(...)` or a function that returns the password, asked
        with each connection; None for the URL's.
    timeout: seconds of one operation; a nearer `deadline` shortens it. connect_timeout: seconds
        to connect. (0.25 and 1.0: ElastiCache's guidance to fail fast and load.)
    max_loads: loads that run at once while the cache cannot be asked. (25: resilience4j's
        bulkhead.)
    max_items: entries that memory:// keeps.

    Raises:
        ConfigError: the URL or a figure is of no use; no message holds a password.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        namespace: str = "",
        auth: PasswordAuth | Callable[[], Any] | None = None,
        timeout: float = 0.25,
        connect_timeout: float = 1.0,
        max_loads: int = 25,
        max_items: int = 10_000,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        _check(namespace, timeout, connect_timeout, max_loads, max_items)
        self._target = with_auth(parse_url(url), auth)
        self._core = Core(namespace=namespace, max_loads=max_loads, clock=clock)
        backends = Backends(
            self._target, timeout=timeout, connect_timeout=connect_timeout, max_items=max_items
        )
        self._fetcher = Fetcher(self._core, backends)
        self.fetchers = Fetchers(self._core, self._fetcher, AsyncFetcher(self._core, backends))
        """What decorated functions work with; not for users."""
        self.aio = AsyncCache(self._core, self.fetchers.for_tasks)
        """The same cache for tasks: the same names, awaitable."""

    def __repr__(self) -> str:
        return f"Cache({str(self._target)!r}, namespace={self._core.prefix[:-1]!r})"

    def get(self, key: str) -> Any:
        """Return the value under `key`; None when there is none, or the cache cannot be asked.

        It is what msgpack holds: dicts, lists, text, numbers, bytes. `get_or_load` and `cached`
        decode to types.
        """
        found = self._fetcher.read(self._core.key(key), PLAIN)
        return None if found is MISS or found is UNASKED else found

    def set(self, key: str, value: object, ttl: Ttl) -> None:
        """Store `value` for `ttl`, or up to a tenth less. 0 or less removes what is there.

        Raises:
            CodecError: the value has no msgpack form.
            CacheUnavailableError: the server did not take it; see `delete`.
            ConfigError: `ttl` is none of its forms.
        """
        self._fetcher.store(self._core.key(key), PLAIN, lifetime(ttl), value)

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`; a load of it under way will not be stored.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation of it gets through.
        """
        self._fetcher.remove(self._core.key(key))

    def get_or_load(self, key: str, loader: Callable[[], T], ttl: TtlOf) -> T:
        """Return the value under `key`, else what `loader()` returns, stored for `ttl`.

        Callers of one key share one load. The value is decoded to the return annotation of
        `loader`, where it has one.

        Raises:
            OverloadError: the cache cannot be asked and `max_loads` loads run already.
            ConfigError: `ttl` is none of its forms, or the annotation cannot be stored.
        """
        codec: Codec[T] = codec_of(loader)
        return self._fetcher.fetch(self._core.key(key), codec, lifetime(ttl), loader)

    def cached(
        self,
        *,
        ttl: TtlOf,
        key: str | None = None,
        ignore: Collection[str] = (),
        version: str | int | None = None,
    ) -> Decorator:
        """Return a decorator that keeps a function's results here. For `def` and `async def`.

        ttl: seconds, `timedelta`, "90s" "5m" "1h" "1d", a function of the result, or None: never
            expires. 0 or less: not stored. Jitter takes up to a tenth off.
        key: a template such as "product:{product_id}", for keys that others know too. Else the
            key is the function's name, `version` and all arguments.
        ignore: names of parameters that do not change the result.
        version: part of the key; change it when the function's results change their meaning.

        Raises:
            ConfigError: an option is of no use; raised where the function is decorated.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        return Decorator(lambda: self.fetchers, ttl=ttl, key=key, ignore=ignore, version=version)

    def close(self) -> None:
        """Close the connections of threads (memory:// forgets everything); the next use opens
        new ones. Those of tasks are closed by `aio.close`."""
        self._fetcher.close()


def _check(
    namespace: str, timeout: float, connect_timeout: float, max_loads: int, max_items: int
) -> None:
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"Cache(namespace={namespace!r}): letters, digits, '.', '_' and '-' only")
    for name, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"Cache({name}={seconds!r}): must be more than 0 seconds")
    for name, count in (("max_loads", max_loads), ("max_items", max_items)):
        if count < 1:
            raise ConfigError(f"Cache({name}={count!r}): must be 1 or more")
