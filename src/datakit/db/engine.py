"""SQLAlchemy's own engines, connected through datakit."""

from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import URL, Engine, Pool, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as sqlalchemy_create_async_engine
from sqlalchemy.util import await_only

from datakit._clock import SYSTEM_CLOCK, Clock
from datakit.db.connect import Connector, Target
from datakit.db.policies import default_policy, remember
from datakit.db.pool import AsyncBoundedPool, BoundedPool
from datakit.dns import Address, AsyncResolver, Resolver
from datakit.errors import ConfigError, MissingExtraError
from datakit.resilience import RetryPolicy

POOL_DEFAULTS = {"pool_use_lifo": True, "pool_recycle": 1500}
"""LIFO lets idle connections age out; 25 minutes stay below RDS Proxy's idle timeout of 30."""

R = TypeVar("R", Resolver, AsyncResolver)


def create_engine(
    url: str | URL,
    *,
    resolver: Resolver | None = None,
    retry: RetryPolicy | None = None,
    **sqlalchemy_kwargs: Any,
) -> Engine:
    """Return SQLAlchemy's engine, whose connections follow the host name through a failover.

    url: "postgresql+psycopg://user@host/database". resolver: finds the host; None for one that
    asks the servers of resolv.conf. retry: for connecting and for transactions; None for 30 s in
    all. A lost link is tried until the policy's deadline, whatever its `attempts`, unless its
    `rules` say otherwise.
    Every keyword of `sqlalchemy.create_engine` is passed on and wins over datakit's defaults.

    Raises:
        ConfigError: the URL cannot be read, or names a driver or form that is not supported.
        MissingExtraError: the driver is not installed.
    """
    parsed = _parse(url)
    names = _checked(resolver, Resolver) or Resolver()
    engine = sqlalchemy.create_engine(parsed, **_with_defaults(sqlalchemy_kwargs, BoundedPool))
    _install(engine, parsed, names, retry, SYSTEM_CLOCK)
    return engine


def create_async_engine(
    url: str | URL,
    *,
    resolver: AsyncResolver | None = None,
    retry: RetryPolicy | None = None,
    **sqlalchemy_kwargs: Any,
) -> AsyncEngine:
    """Return SQLAlchemy's asyncio engine; otherwise as `create_engine`."""
    parsed = _parse(url)
    names = _Awaited(_checked(resolver, AsyncResolver) or AsyncResolver())
    kwargs = _with_defaults(sqlalchemy_kwargs, AsyncBoundedPool)
    engine = sqlalchemy_create_async_engine(parsed, **kwargs)
    _install(engine.sync_engine, parsed, names, retry, _AwaitedClock())
    return engine


def _install(
    engine: Engine,
    url: URL,
    names: "Resolver | _Awaited",
    retry: RetryPolicy | None,
    clock: Clock,
) -> None:
    if url.host:
        target = Target(url.host, url.port or 5432)
        policy = retry or default_policy()
        Connector(target, names, policy, clock).install(engine)
        remember(engine, policy)


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as exc:
        raise ConfigError(
            "the database URL cannot be used: expected postgresql+psycopg://user@host/database, "
            f"got {_shown(url)}"
        ) from exc
    if dialect.name != "postgresql" or dialect.driver not in {"psycopg", "psycopg_async"}:
        raise ConfigError(f"{parsed.drivername} is not supported yet: use postgresql+psycopg://")
    try:
        dialect.import_dbapi()
    except ImportError as exc:
        raise MissingExtraError(
            f"{parsed.drivername} needs its driver and libpq: pip install 'datakit[binary]'"
        ) from exc
    if "host" in parsed.query or "," in (parsed.host or ""):
        raise ConfigError("several hosts, or ?host=, in a database URL are not supported yet")
    return parsed


def _shown(url: str | URL) -> str:
    """Return what is safe to show of a URL that may hold a password anywhere."""
    scheme, found, _ = str(url).partition("://")
    return f"{scheme}://..." if found else "a text without '://'"


def _checked(resolver: object, kind: type[R]) -> R | None:
    if resolver is None or isinstance(resolver, kind):
        return resolver
    raise ConfigError(f"resolver={resolver!r}: this engine needs a datakit {kind.__name__}")


def _with_defaults(kwargs: dict[str, Any], pool: type[Pool]) -> dict[str, Any]:
    own_pool = {"pool", "poolclass", "creator"} & kwargs.keys()
    return kwargs if own_pool else {**POOL_DEFAULTS, "poolclass": pool, **kwargs}


class _Awaited:
    """An AsyncResolver for code that runs in SQLAlchemy's greenlet."""

    def __init__(self, resolver: AsyncResolver) -> None:
        self._resolver = resolver
        self.report_failure = resolver.report_failure

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        return await_only(self._resolver.addresses(name, port))

    def is_current(self, name: str, ip: str) -> bool:
        return await_only(self._resolver.is_current(name, ip))


class _AwaitedClock:
    """The system's clock, whose `sleep` suspends the task behind SQLAlchemy's greenlet."""

    monotonic = staticmethod(SYSTEM_CLOCK.monotonic)
    wall = staticmethod(SYSTEM_CLOCK.wall)
    asleep = staticmethod(SYSTEM_CLOCK.asleep)

    def sleep(self, seconds: float, /) -> None:
        await_only(SYSTEM_CLOCK.asleep(seconds))
