"""Options that cannot work are refused where they are given, each by its name."""

from datetime import timedelta
from typing import Any

import pytest

from datakit.cache import Cache, cached, cached_many
from datakit.cache.settings import MAX_ITEMS
from datakit.errors import ConfigError

KEY = b"canary-secret-0123456789abcdef01"


def same(n: int) -> int:
    return n


@pytest.mark.parametrize(
    ("name", "value"),
    [("namespace", "a:b"), ("namespace", None), ("timeout", 0), ("timeout", None),
     ("timeout", True), ("timeout", "soon"), ("timeout", -1), ("timeout", timedelta(0)),
     ("connect_timeout", float("nan")), ("connect_timeout", float("inf")), ("max_loads", 0),
     ("max_loads", 2.5), ("max_items", 0), ("max_items", "10"), ("max_items", True),
     ("max_bytes", 1e6), ("max_bytes", 0), ("refresh_threads", "2"), ("refresh_threads", 1.5),
     ("refresh_threads", -1), ("codec", []), ("codec", "pickle"), ("codec", None),
     ("compress_over", "16k"), ("compress_over", -1), ("breaker", "x"), ("breaker", False),
     ("on_invalidate_error", "log"), ("encrypt", "x" * 32), ("encrypt", KEY), ("encrypt", {}),
     ("encrypt", {1: KEY}), ("encrypt", {KEY: "2026"}), ("encrypt", {"2026": "x" * 32})],
)  # fmt: skip
def test_mistaken_option_of_a_cache_is_named(name: str, value: Any) -> None:
    """In the message, without any key."""
    with pytest.raises(ConfigError, match=name) as caught:
        Cache(**{name: value})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ttl", "1w"), ("none_ttl", "x"), ("none_ttl", lambda result: 1), ("cache_if", 5),
     ("refresh_ahead", 0), ("refresh_ahead", 1), ("refresh_ahead", "0.8"), ("refresh_ahead", 80),
     ("load_timeout", 0), ("load_timeout", "x"), ("load_timeout", float("nan")),
     ("soft_load_timeout", "x"), ("soft_load_timeout", 1), ("stale_if_error", "x"),
     ("stale_while_revalidate", "x"), ("key", 5), ("key", lambda n: str(n)), ("ignore", 5),
     ("ignore", "n"), ("ignore", (5,)), ("version", "a b"), ("tags", ["a"]), ("nonsense", 1)],
)  # fmt: skip
@pytest.mark.parametrize("decorator", [cached, Cache().cached])
def test_mistaken_option_of_a_function_is_named(decorator: Any, name: str, value: Any) -> None:
    """At its decoration."""
    with pytest.raises(ConfigError, match=f"{name}[=:(]"):
        decorator(**{"ttl": 60, name: value})(same)


def test_what_is_not_there_yet_says_so() -> None:
    """The in-process level, and tags of every kind of function."""
    with pytest.raises(ConfigError, match=r"Cache\(l1=\.\.\.\): not available yet"):
        Cache(l1=Cache())  # type: ignore[arg-type]
    for decorator in (cached, Cache().cached):
        with pytest.raises(ConfigError, match="tags=: not available yet"):
            decorator(ttl=60, tags=["a"])  # type: ignore[call-overload]
    for many in (cached_many, Cache().cached_many):
        with pytest.raises(ConfigError, match="tags=: not available yet"):
            many(ttl=60, by="ids", tags=["a"])  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["ttl", "cache_if"])
def test_rule_of_the_result_is_not_awaited(name: str) -> None:
    """A coroutine would be taken for a yes."""

    async def rule(result: object) -> int:
        return 1

    with pytest.raises(ConfigError, match="async"):
        Cache().cached(**{"ttl": 60, name: rule})  # type: ignore[call-overload]


@pytest.mark.parametrize("forgotten", [same, 60, "5m"])
def test_decorator_without_named_options_says_how(forgotten: Any) -> None:
    """Other libraries allow a bare `@cached`; here each function has its TTL."""
    for decorator in (cached, Cache().cached):
        with pytest.raises(ConfigError, match=r'@cached\(ttl="5m"\)'):
            decorator(forgotten)  # type: ignore[call-overload]
    for many in (cached_many, Cache().cached_many):
        with pytest.raises(ConfigError, match=r'@cached_many\(ttl="5m", by="ids"\)'):
            many(forgotten)  # type: ignore[call-arg]


@pytest.mark.parametrize("second", [1, 1.0, "1s", timedelta(seconds=1)])
def test_timeouts_take_every_form_of_a_time(second: Any) -> None:
    """Those of operations and of loads."""
    backends = Cache(timeout=second, connect_timeout=second).fetchers.for_threads._backends
    assert (backends._timeout, backends._connect_timeout) == (1.0, 1.0)
    decorated = Cache().cached(
        ttl=60, stale_if_error=60, load_timeout=second, soft_load_timeout=second
    )
    policy = decorated._options.wishes.policy(Cache()._plain.codec)
    assert (policy.load_timeout, policy.soft_load_timeout) == (1.0, 1.0)


def test_soft_timeout_above_the_hard_one_is_refused() -> None:
    """It would never come to its turn."""
    with pytest.raises(ConfigError, match=r"soft_load_timeout='6s'.*load_timeout=5"):
        Cache().cached(ttl=60, stale_if_error=60, load_timeout=5, soft_load_timeout="6s")


def test_memory_has_one_bound() -> None:
    """Items, by default, or bytes."""
    with pytest.raises(ConfigError, match="one of the two"):
        Cache(max_items=10, max_bytes=1_000_000)
    bounds = [
        (made.fetchers.for_threads._backends._limit, made.fetchers.for_threads._backends._by_bytes)
        for made in (Cache(), Cache(max_items=5), Cache(max_bytes=900))
    ]
    assert bounds == [(MAX_ITEMS, False), (5, False), (900, True)]
