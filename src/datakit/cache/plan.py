"""How one function is cached: what is known at its decoration, and the rest at its first use."""

import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Generic, Literal, NamedTuple, Self, TypeAlias, TypedDict, TypeVar

from datakit.cache.codec import CodecName, codec_for, returned_by
from datakit.cache.core import Core
from datakit.cache.fetch import Fetcher
from datakit.cache.fetch_async import AsyncFetcher
from datakit.cache.policy import Policy, Wishes
from datakit.cache.signature import KeyBuilder, KeyRule
from datakit.cache.ttl import Duration, Ttl, TtlOf
from datakit.errors import ConfigError

R = TypeVar("R")

IgnoreCls: TypeAlias = tuple[Literal["cls"], *tuple[str, ...]]
"""The `ignore` that tells type checkers of a class method."""


class Fetchers(NamedTuple):
    """What a decorated function needs of its cache."""

    core: Core
    codec: CodecName
    for_threads: Fetcher
    for_tasks: AsyncFetcher


class SharedOptions(TypedDict, total=False):
    """What `cached` and `cached_many` may be told, but for `ignore`."""

    none_ttl: Ttl | EllipsisType
    cache_if: Callable[[Any], bool] | None
    key: str | None
    version: str | int | None
    stale_if_error: Ttl
    load_timeout: Duration | None


class ManyOptions(SharedOptions, total=False):
    """What `cached_many` may be told beside `ttl` and `by`; see `Cache.cached`."""

    ignore: Collection[str]


class ClassMethodOptions(SharedOptions, total=False):
    """What `cached` may be told of a class method, beside `ttl` and `ignore`."""

    refresh_ahead: float | None
    stale_while_revalidate: Ttl
    soft_load_timeout: Duration | None


class CachedOptions(ClassMethodOptions, total=False):
    """What `cached` may be told beside `ttl`; see `Cache.cached`."""

    ignore: Collection[str]


@dataclass(frozen=True, slots=True)
class Options:
    """What is known at decoration. `fetchers` gives the cache, and is not called before use."""

    fetchers: Callable[[], Fetchers]
    wishes: Wishes
    key: str | None
    ignore: Collection[str]
    version: str | int | None

    @classmethod
    def given(
        cls, fetchers: Callable[[], Fetchers], ttl: TtlOf, options: Mapping[str, Any], kind: Any
    ) -> Self:
        """Return the options as the user spelled them; kind: `CachedOptions` or `ManyOptions`.

        Raises:
            ConfigError: one is unknown, of no use, or not there yet.
        """
        if "tags" in options:
            raise ConfigError("tags=: not available yet; invalidate by arguments or by key")
        unknown = sorted(options.keys() - kind.__optional_keys__)
        if unknown:
            known = ", ".join(sorted(kind.__optional_keys__))
            raise ConfigError(f"{unknown[0]}=: no such option here; there are ttl, {known}")
        wishes: dict[str, Any] = dict(options)
        key, version = wishes.pop("key", None), wishes.pop("version", None)
        ignore = wishes.pop("ignore", ())
        return cls(fetchers, Wishes(ttl, **wishes), key, ignore, version)

    def for_function(self, fn: Callable[..., object]) -> "FunctionOptions":
        """Return the options of one function, its signature read.

        Raises:
            ConfigError: an option does not fit it.
            CacheKeyError: a method without `ignore=("self",)`, `key=` or `__cache_key__`.
        """
        rule = KeyRule(fn, key=self.key, ignore=self.ignore, version=self.version)
        return FunctionOptions(self.fetchers, self.wishes, rule)


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """What is known of one function."""

    fetchers: Callable[[], Fetchers]
    wishes: Wishes
    rule: KeyRule


class Plan(NamedTuple, Generic[R]):
    """What is known once the cache is there and the annotations can be resolved."""

    builder: KeyBuilder
    build: Callable[[tuple[object, ...], dict[str, Any]], str]
    policy: Policy[R]
    core: Core
    threads: Fetcher
    tasks: AsyncFetcher
    entries: Any
    """What memory:// keeps, by key, where a look at it is all that a hit takes; else None."""

    def bound_to(self, instance: object) -> "Plan[R]":
        """Return the plan of calls whose first argument is `instance`."""
        build = self.build
        return self._replace(
            build=lambda args, kwargs: build((instance, *args), kwargs), entries=None
        )


def plan_for(fn: Callable[..., object], options: FunctionOptions) -> Plan[Any]:
    """Return the plan of `fn`.

    Raises:
        ConfigError: its return annotation cannot be resolved or stored.
    """
    return _plan(returned_by(fn, options.rule.name), options)


def many_plan_for(fn: Callable[..., object], options: FunctionOptions) -> Plan[Any]:
    """Return the plan of a function that returns a mapping, whose values are stored one by one.

    Raises:
        ConfigError: its return annotation cannot be resolved or stored, or is no mapping.
    """
    returned = returned_by(fn, options.rule.name)
    arguments = typing.get_args(returned)
    if returned is not Any and len(arguments) != 2:
        raise ConfigError(f"{options.rule.name}: annotate it with dict[id, value]")
    return _plan(arguments[1] if arguments else Any, options)


def _plan(returned: object, options: FunctionOptions) -> Plan[Any]:
    fetchers, rule = options.fetchers(), options.rule
    codec = codec_for(returned, rule.name, fetchers.codec, rule.version)
    core, policy = fetchers.core, options.wishes.policy(codec)
    builder = rule.builder(core.prefix)
    entries = None
    if core.envelope is None and policy.freshness.ahead is None:
        memory: Any = fetchers.for_threads.open()
        entries = memory.entries
    threads, tasks = fetchers.for_threads, fetchers.for_tasks
    return Plan(builder, builder.build, policy, core, threads, tasks, entries)
