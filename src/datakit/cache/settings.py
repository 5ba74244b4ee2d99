"""What `Cache(...)` is told, checked before anything is made of it."""

import re
from typing import Final

from datakit.cache.codec import SignedPickle
from datakit.errors import ConfigError
from datakit.resilience import checks
from datakit.resilience.breaker import CircuitBreaker

MAX_ITEMS: Final = 10_000
"""What memory:// keeps when nothing is said."""

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._-]*")


def check_settings(
    *,
    namespace: object,
    codec: object,
    compress_over: object,
    breaker: object,
    max_loads: object,
    max_items: object,
    max_bytes: object,
    refresh_threads: object,
    on_invalidate_error: object,
) -> None:
    """Do nothing when all of them can work.

    Raises:
        ConfigError: one cannot, which the message names.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"Cache(namespace={namespace!r}): letters, digits, '.', '_' and '-' only")
    if not isinstance(codec, str | SignedPickle):
        raise ConfigError("Cache(codec=): give 'msgpack', 'json' or SignedPickle(key)")
    if not isinstance(breaker, CircuitBreaker | None):
        raise ConfigError(f"Cache(breaker={breaker!r}): give a datakit CircuitBreaker")
    if on_invalidate_error not in ("raise", "queue"):
        raise ConfigError(
            f"Cache(on_invalidate_error={on_invalidate_error!r}): give 'raise' or 'queue'"
        )
    if compress_over is not None:
        checks.count("Cache", "compress_over", compress_over, least=0)
    checks.count("Cache", "max_loads", max_loads)
    checks.count("Cache", "refresh_threads", refresh_threads, least=0)
    _check_bounds(max_items, max_bytes)


def _check_bounds(max_items: object, max_bytes: object) -> None:
    for name, bound in (("max_items", max_items), ("max_bytes", max_bytes)):
        if bound is not None:
            checks.count("Cache", name, bound)
    if max_items is not None and max_bytes is not None:
        raise ConfigError("Cache(max_items=, max_bytes=): memory is bounded by one of the two")
