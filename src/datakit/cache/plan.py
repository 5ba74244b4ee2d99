"""How one function is cached: what is known at its decoration, and the rest at its first use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from datakit.cache.codec import Codec, codec_of
from datakit.cache.core import Core
from datakit.cache.fetch import Fetcher
from datakit.cache.fetch_async import AsyncFetcher
from datakit.cache.loads import Loads
from datakit.cache.signature import KeyRule
from datakit.cache.ttl import Lifetime

R = TypeVar("R")


class Fetchers(NamedTuple):
    """What a decorated function needs of its cache."""

    core: Core
    for_threads: Fetcher
    for_tasks: AsyncFetcher


@dataclass(frozen=True, slots=True)
class Options:
    """What is known at decoration. `fetchers` gives the cache, and is not called before use."""

    fetchers: Callable[[], Fetchers]
    rule: KeyRule
    ttl: Lifetime


@dataclass(frozen=True, slots=True)
class Plan(Generic[R]):
    """What is known once the cache is there and the annotations can be resolved."""

    build: Callable[[tuple[object, ...], dict[str, Any]], str]
    codec: Codec[R]
    ttl: Lifetime
    loads: Loads
    threads: Fetcher
    tasks: AsyncFetcher


def plan_for(fn: Callable[..., object], options: Options) -> Plan[Any]:
    """Return the plan of `fn`.

    Raises:
        ConfigError: its return annotation cannot be resolved or stored.
    """
    fetchers = options.fetchers()
    return Plan(
        build=options.rule.builder(fetchers.core.prefix).build,
        codec=codec_of(fn),
        ttl=options.ttl,
        loads=fetchers.core.loads,
        threads=fetchers.for_threads,
        tasks=fetchers.for_tasks,
    )
