"""Databases, caches and endpoints that fail over without an error. See the README.

Importing the package loads nothing: a public name brings its module in when it is first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datakit import errors, events
    from datakit.auth import ElastiCacheIam, IamAuth, SecretAuth, Tls
    from datakit.cache import Cache, cached
    from datakit.db import (
        attach,
        classify,
        create_async_engine,
        create_engine,
        run_transaction,
        transaction,
    )
    from datakit.dns import AsyncResolver, Resolver
    from datakit.resilience import Bulkhead, CircuitBreaker, RetryBudget, RetryPolicy, deadline

__version__ = "0.1.0"

__all__ = [
    "create_engine", "create_async_engine", "attach", "transaction", "run_transaction", "classify",
    "Cache", "cached",
    "Resolver", "AsyncResolver",
    "IamAuth", "SecretAuth", "ElastiCacheIam", "Tls",
    "RetryPolicy", "RetryBudget", "CircuitBreaker", "Bulkhead", "deadline",
    "errors", "events",
]  # fmt: skip

_HOMES = {
    "create_engine": "datakit.db",
    "create_async_engine": "datakit.db",
    "attach": "datakit.db",
    "transaction": "datakit.db",
    "run_transaction": "datakit.db",
    "classify": "datakit.db",
    "Cache": "datakit.cache",
    "cached": "datakit.cache",
    "Resolver": "datakit.dns",
    "AsyncResolver": "datakit.dns",
    "IamAuth": "datakit.auth",
    "SecretAuth": "datakit.auth",
    "ElastiCacheIam": "datakit.auth",
    "Tls": "datakit.auth",
    "RetryPolicy": "datakit.resilience",
    "RetryBudget": "datakit.resilience",
    "CircuitBreaker": "datakit.resilience",
    "Bulkhead": "datakit.resilience",
    "deadline": "datakit.resilience",
}
_SUBPACKAGES = (
    "errors",
    "events",
    "resilience",
    "auth",
    "dns",
    "db",
    "cache",
    "aws_lambda",
    "testing",
)


def __getattr__(name: str) -> object:
    if name not in _HOMES and name not in _SUBPACKAGES:
        raise AttributeError(f"module 'datakit' has no attribute {name!r}")
    from importlib import import_module

    home = import_module(_HOMES.get(name, f"datakit.{name}"))
    value = getattr(home, name) if name in _HOMES else home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBPACKAGES})
