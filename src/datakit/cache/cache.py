"""The cache of threads, and the doors to its async twin and to the decorators."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from datakit._clock import SYSTEM_CLOCK, WaitingClock
from datakit.auth.password import PasswordAuth
from datakit.cache.backends.base import RefusedError
from datakit.cache.backends.opening import Backends
from datakit.cache.backends.url import parse_url, with_auth
from datakit.cache.cache_async import AsyncCache
from datakit.cache.codec import Codec, CodecName, SignedPickle, codec_of, plain_codec
from datakit.cache.core import Core
from datakit.cache.decorator import Decorator, ManyDecorator, options_by_name
from datakit.cache.entry import Freshness
from datakit.cache.envelope import Bare, Envelope, SealedEnvelope
from datakit.cache.explain import Explanation, explained, plan_of
from datakit.cache.fetch import Fetcher
from datakit.cache.fetch_async import AsyncFetcher
from datakit.cache.plan import (
    CachedOptions,
    ClassMethodOptions,
    Fetchers,
    IgnoreCls,
    ManyOptions,
    Options,
)
from datakit.cache.policy import Policy
from datakit.cache.seal import Seal
from datakit.cache.settings import MAX_ITEMS, check_settings
from datakit.cache.stats import CacheStats
from datakit.cache.ttl import NEVER, Duration, Ttl, TtlOf, duration, lifetime
from datakit.errors import ConfigError
from datakit.resilience.breaker import CircuitBreaker, counts_against
from datakit.resilience.bulkhead import Bulkhead

if TYPE_CHECKING:
    from datakit.dns import AsyncResolver, Resolver

P = ParamSpec("P")
T = TypeVar("T")


class Cache:
    """A cache that makes its users slower when it fails, and nothing else.

    Making one opens nothing: no connection, no thread. It may be shared by threads, by the tasks
    of any number of event loops (through `aio`) and by a forked child.

    url: `memory://`, `redis://user:password@host:port/db`, `rediss://...` (verified TLS;
        `?ssl_ca_certs=` names certificates to trust beside the system's) or
        `memcached://host:port`.
    namespace: letters, digits, `.`, `_`, `-`; put before every key. l1: not available yet.
    codec: "msgpack", "json" or `SignedPickle(key)`. envelope: False stores the value alone, as
        other programs do; nothing is then known of its age and type.
    encrypt: AES keys by their ids; the first one encrypts, all decrypt. compress_over: bytes
        from which on values are compressed, None for never. memory:// does neither.
    auth: `ElastiCacheIam(...)`, `SecretAuth(...)` or a function that returns the password, asked
        with each connection; None for the URL's.
    resolver: finds the server, with these settings for threads and tasks alike; None for one that
        asks the servers of resolv.conf. memory:// needs none.
    timeout: of one operation, and half of what is left of a nearer `deadline` at most.
        connect_timeout: to find the server and connect. Seconds, `timedelta` or "0.5s". (0.25 and
        1.0: ElastiCache's guidance to fail fast and load.)
    breaker: None for one that opens for 0.5 s, doubling to 2 s: hits are back within 5 s.
    max_loads: loads that run at once while the cache cannot be asked, and for 30 s after. (25:
        resilience4j's bulkhead.)
    max_items, max_bytes: what memory:// keeps, one of the two; 10,000 items by default.
    refresh_threads: threads that load values behind the backs of threads; 0: callers do it.
        `close` and the interpreter's exit wait for their loads.
    on_invalidate_error: "raise" `CacheUnavailableError`, or "queue": try again until it succeeds.

    Raises:
        ConfigError: an option is of no use or not available yet; no message holds a password.
        MissingExtraError: `encrypt=` needs a package that is not installed.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        namespace: str = "",
        l1: None = None,
        codec: CodecName = "msgpack",
        envelope: bool = True,
        encrypt: Mapping[str, bytes] | None = None,
        compress_over: int | None = 16_384,
        auth: PasswordAuth | Callable[[], Any] | None = None,
        resolver: "Resolver | AsyncResolver | None" = None,
        timeout: Duration = 0.25,
        connect_timeout: Duration = 1.0,
        breaker: CircuitBreaker | None = None,
        max_loads: int = 25,
        max_items: int | None = None,
        max_bytes: int | None = None,
        refresh_threads: int = 0,
        on_invalidate_error: Literal["raise", "queue"] = "raise",
        clock: WaitingClock = SYSTEM_CLOCK,
    ) -> None:
        if l1 is not None:
            raise ConfigError("Cache(l1=...): not available yet")
        _check_resolver(resolver)
        check_settings(
            namespace=namespace,
            codec=codec,
            compress_over=compress_over,
            breaker=breaker,
            max_loads=max_loads,
            max_items=max_items,
            max_bytes=max_bytes,
            refresh_threads=refresh_threads,
            on_invalidate_error=on_invalidate_error,
        )
        self._target = with_auth(parse_url(url), auth)
        if self._target.ca is not None and not Path(self._target.ca).is_file():
            raise ConfigError(f"{self._target}: ssl_ca_certs={self._target.ca!r} is no file")
        self._codec = codec
        self._plain = Policy(plain_codec(codec), NEVER)
        is_memory = self._target.scheme == "memory"
        form = _envelope(codec, envelope=envelope, encrypt=encrypt, compress_over=compress_over)
        self._core = Core(
            namespace=namespace,
            envelope=None if is_memory else form,
            bulkhead=Bulkhead(max_loads, clock=clock),
            queues=on_invalidate_error == "queue",
            clock=clock,
        )
        backends = Backends(
            self._target,
            timeout=duration(timeout, "timeout"),
            connect_timeout=duration(connect_timeout, "connect_timeout"),
            resolver=resolver,
            limit=max_bytes or max_items or MAX_ITEMS,
            by_bytes=max_bytes is not None,
            clock=clock,
        )
        guard = None if is_memory else breaker or _breaker(str(self._target), clock)
        self._fetcher = Fetcher(self._core, backends, guard, refresh_threads)
        tasks = AsyncFetcher(self._core, backends, guard)
        self.fetchers = Fetchers(self._core, codec, self._fetcher, tasks)
        """What decorated functions work with; not for users."""
        self.aio = AsyncCache(self.fetchers, self._plain)
        """The same cache for tasks: the same names, awaitable."""

    def __repr__(self) -> str:
        return f"Cache({str(self._target)!r}, namespace={self._core.prefix[:-1]!r})"

    def get(self, key: str) -> Any:
        """Return the value under `key`; None when there is none, or the cache cannot be asked.

        It is what msgpack holds: dicts, lists, text, numbers, bytes. `get_or_load` and `cached`
        decode to types.
        """
        return self._fetcher.read(self._core.key(key), self._plain).value

    def set(self, key: str, value: object, ttl: Ttl) -> None:
        """Store `value` for `ttl`, or up to a tenth less. 0 or less removes what is there.

        Raises:
            CodecError: the value has no stored form that gives it back.
            CacheUnavailableError: the server did not take it; see `delete`.
            ConfigError: `ttl` is none of its forms.
        """
        policy = Policy(self._plain.codec, lifetime(ttl))
        self._fetcher.store("set", {self._core.key(key): value}, policy)

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`; a load of it under way will not be stored.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation of it gets through.
        """
        self._fetcher.remove("delete", (self._core.key(key),), NEVER)

    def get_or_load(self, key: str, loader: Callable[[], T], ttl: TtlOf) -> T:
        """Return the value under `key`, else what `loader()` returns, stored for `ttl`.

        Callers of one key share one load. The value is decoded to the return annotation of
        `loader`, where it has one.

        Raises:
            OverloadError: the cache cannot be asked and `max_loads` loads run already.
            ConfigError: `ttl` is none of its forms, or the annotation cannot be stored.
        """
        codec: Codec[T] = codec_of(loader, self._codec)
        name = self._core.key(key)
        with self._core.policy(name, codec, lifetime(ttl)) as policy:
            return self._fetcher.fetch(name, policy, loader)

    @overload
    def cached(
        self, *, ttl: TtlOf, ignore: IgnoreCls, **options: Unpack[ClassMethodOptions]
    ) -> Decorator[IgnoreCls]: ...
    @overload
    def cached(
        self, *, ttl: TtlOf, **options: Unpack[CachedOptions]
    ) -> Decorator[Collection[str]]: ...
    @options_by_name('ttl="5m"')
    def cached(self, *, ttl: TtlOf, **options: Unpack[CachedOptions]) -> Decorator[Collection[str]]:
        """Return a decorator that keeps a function's results here. For `def` and `async def`.

        ttl: seconds, `timedelta`, "90s" "5m" "1h" "1d", a function of the result, or None: never
            expires. 0 or less: not stored. Jitter takes up to a tenth off.
        none_ttl: for None as a result; `...` for the same. cache_if: whether a result is stored.
        key: a template such as "product:{product_id}", for keys that others know too. Else the
            key is the function's name, `version` and all arguments.
        ignore: names of parameters that do not change the result.
        version: part of the key; change it when the function's results change their meaning.
        refresh_ahead: the share of the TTL after which one caller loads the next value while the
            others are served. stale_while_revalidate: the same, for so long past the TTL.
            asyncio does it in a task; threads in the caller, or in `Cache(refresh_threads=...)`.
        stale_if_error: for how long past the TTL a value is served when the load fails.
        load_timeout: time for one load; a `def` is only told, through `deadline`.
        soft_load_timeout: time after which a value past its TTL is served, and the load goes on.

        Raises:
            ConfigError: an option is of no use; raised where the function is decorated.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        return Decorator(self._given(ttl, options, CachedOptions))

    @options_by_name('ttl="5m", by="ids"')
    def cached_many(self, *, ttl: TtlOf, by: str, **options: Unpack[ManyOptions]) -> ManyDecorator:
        """Return a decorator for a function of many ids that returns a dict of values by id.

        Values are kept one by one: a call reads all in one round trip, runs the function once for
        those that are missing, and stores what it returned in one round trip.

        by: the name of the parameter with the ids, the first one (after `self`). The function gets
            a list, whatever sequence the caller gave. In `key`, the name stands for one id. The
            other options are those of `cached`.

        Raises:
            ConfigError: an option is of no use; raised where the function is decorated.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        return ManyDecorator(self._given(ttl, options, ManyOptions), by)

    def _given(self, ttl: TtlOf, options: Mapping[str, Any], kind: Any) -> Options:
        given = Options.given(lambda: self.fetchers, ttl, options, kind)
        if not self._core.is_dated and given.wishes.freshness != Freshness():
            raise ConfigError(
                "Cache(envelope=False): a value alone does not say how old it is; refresh_ahead=, "
                "stale_while_revalidate= and stale_if_error= need the envelope"
            )
        return given

    def explain(self, fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return what the call `fn(*args, **kwargs)` would find, without running or storing.

        fn: decorated with `cached` of this cache, `def` or `async def`.

        Raises:
            ConfigError: `fn` is not.
            CacheKeyError: an argument has no stable key.
        """
        plan = plan_of(fn, self._core)
        key = plan.build(args, kwargs)
        return explained(self._core, key, self._fetcher.ask("get", key), plan.policy)

    def stats(self) -> CacheStats:
        """Return what the cache did so far in this process, from threads and from tasks."""
        return self._core.stats.copy(in_doubt=len(self._core.suspects))

    def close(self) -> None:
        """Close the connections of threads (memory:// forgets everything); the next use opens
        new ones. Those of tasks are closed by `aio.close`.

        Waits for the loads of `refresh_threads`, as the interpreter does at its exit: for as long
        as the function takes, which `load_timeout` bounds where the function heeds `deadline`.
        """
        self._fetcher.close()


def _breaker(name: str, clock: WaitingClock) -> CircuitBreaker:
    return CircuitBreaker(
        minimum_calls=5,  # a lone caller who waits for connect_timeout makes ten in the window
        open_time=0.5,
        max_open_time=2.0,
        counts=lambda exc: counts_against(exc) and not isinstance(exc, RefusedError),
        name=name,
        clock=clock,
    )


def _envelope(
    codec: CodecName,
    *,
    envelope: bool,
    encrypt: Mapping[str, bytes] | None,
    compress_over: int | None,
) -> Envelope:
    signing_key = codec.key if isinstance(codec, SignedPickle) else None
    if envelope:
        return SealedEnvelope(
            Seal(compress_over=compress_over, encrypt=encrypt, signing_key=signing_key)
        )
    if encrypt is not None or signing_key is not None:
        raise ConfigError("Cache(envelope=False): encrypted and signed values need their envelope")
    return Bare()


def _check_resolver(given: object) -> None:
    if given is None:
        return
    from datakit.dns import AsyncResolver, Resolver

    if not isinstance(given, Resolver | AsyncResolver):
        raise ConfigError(f"Cache(resolver={given!r}): give a datakit Resolver or AsyncResolver")
