"""SQLAlchemy's own engines, connected through datakit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import URL, Engine, Pool, make_url
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as sqlalchemy_create_async_engine

from datakit._clock import SYSTEM_CLOCK
from datakit.auth import IamAuth, PasswordAuth, Tls
from datakit.auth.masked import Masked
from datakit.auth.password import password_auth
from datakit.db.connect import Connector, Target, check_tls
from datakit.db.description import remember_connector
from datakit.db.drivers import driver_for
from datakit.db.endpoint import Endpoint, endpoint_for
from datakit.db.pinning_lint import lint_pinning
from datakit.db.policies import default_policy, remember
from datakit.db.pool import AsyncLookingPool, LookingPool
from datakit.db.waiting import AwaitedClock, Awaiting, Blocking
from datakit.dns import AsyncResolver, Resolver
from datakit.errors import ConfigError, MissingExtraError
from datakit.resilience import RetryPolicy

Auth = str | PasswordAuth | Callable[[], Any] | None

R = TypeVar("R", Resolver, AsyncResolver)
E = TypeVar("E", Engine, AsyncEngine)


def create_engine(
    url: str | URL,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: Resolver | None = None,
    retry: RetryPolicy | None = None,
    endpoint: str | Endpoint = "auto",
    **sqlalchemy_kwargs: Any,
) -> Engine:
    """Return SQLAlchemy's engine, whose connections follow the host name through a failover.

    url: "postgresql+psycopg://user@host/database" or "mysql+pymysql://...".
    auth: "iam", `IamAuth(...)`, `SecretAuth(...)`, a function that returns a password, or None for
    the URL's.
    tls: `Tls(...)` or its mode; None for verified TLS off loopback.
    resolver: finds the host; None for one that asks the servers of resolv.conf.
    retry: for connecting and for transactions; None for the endpoint's deadline (30 s, 60 s for a
    cluster or an instance). A lost link is tried until the policy's deadline, whatever its
    `attempts`, unless its `rules` say otherwise.
    endpoint: "auto" reads the kind off the host name; else proxy, cluster, reader, instance,
    generic, lambda or an `Endpoint`.
    Every keyword of `sqlalchemy.create_engine` is passed on and wins over datakit's defaults.

    Raises:
        ConfigError: the URL cannot be read, names a driver or form that is not supported, or the
            arguments do not go together.
        MissingExtraError: the driver is not installed.
    """
    plan = _plan("create_engine", url, auth, tls, endpoint, sqlalchemy_kwargs)
    waits = Blocking(_checked(resolver, Resolver) or Resolver())
    engine = sqlalchemy.create_engine(plan.url, **plan.kwargs(sqlalchemy_kwargs, LookingPool))
    _install(engine, plan.target, waits, retry)
    return engine


def create_async_engine(
    url: str | URL,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: AsyncResolver | None = None,
    retry: RetryPolicy | None = None,
    endpoint: str | Endpoint = "auto",
    **sqlalchemy_kwargs: Any,
) -> AsyncEngine:
    """Return SQLAlchemy's asyncio engine; otherwise as `create_engine`.

    url: "postgresql+psycopg://..." or "mysql+aiomysql://...".
    """
    plan = _plan("create_async_engine", url, auth, tls, endpoint, sqlalchemy_kwargs)
    waits = Awaiting(_checked(resolver, AsyncResolver) or AsyncResolver())
    kwargs = plan.kwargs(sqlalchemy_kwargs, AsyncLookingPool)
    engine = sqlalchemy_create_async_engine(plan.url, **kwargs)
    _install(engine.sync_engine, plan.target, waits, retry)
    return engine


def attach(
    engine: E,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: Resolver | AsyncResolver | None = None,
    retry: RetryPolicy | None = None,
    endpoint: str | Endpoint = "auto",
) -> E:
    """Let an engine that exists connect through datakit; return it.

    The arguments are those of `create_engine`. The pool stays as it was made.

    Raises:
        ConfigError: as `create_engine`; datakit is attached already.
    """
    plain = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    target = _target(plain.url, plain.dialect, auth, tls, endpoint)
    if target is not None:
        check_tls(target, dict(plain.dialect.create_connect_args(plain.url)[1]))
    waits = (
        Awaiting(_checked(resolver, AsyncResolver) or AsyncResolver())
        if plain.dialect.is_async
        else Blocking(_checked(resolver, Resolver) or Resolver())
    )
    _install(plain, target, waits, retry)
    return engine


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an engine is made of. target: None for a server behind a Unix socket."""

    url: URL
    target: Target | None

    def kwargs(self, given: dict[str, Any], pool: type[Pool]) -> dict[str, Any]:
        """Return SQLAlchemy's keywords: those given, over those of the endpoint."""
        if {"pool", "poolclass", "creator"} & given.keys():
            return given
        defaults: dict[str, Any] = {"poolclass": pool, "pool_use_lifo": True}
        if self.target is not None:
            endpoint = self.target.endpoint
            defaults["pool_size"] = endpoint.pool_size
            defaults["max_overflow"] = endpoint.max_overflow
        return {**defaults, **given}


def _plan(
    factory: str,
    url: str | URL,
    auth: Auth,
    tls: Tls | str | None,
    endpoint: str | Endpoint,
    kwargs: dict[str, Any],
) -> _Plan:
    try:
        parsed = make_url(url)
        dialect_class = parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as exc:
        raise ConfigError(
            "the database URL cannot be used: expected postgresql+psycopg://user@host/database, "
            f"got {_shown(url)}"
        ) from exc
    driver = driver_for(dialect_class.name, dialect_class.driver)
    if factory not in driver.FACTORIES:
        raise ConfigError(f"{parsed.drivername} is a driver for {driver.FACTORIES[0]}()")
    try:
        dialect_class.import_dbapi()
    except ImportError as exc:
        raise MissingExtraError(
            f"{parsed.drivername} needs its driver: pip install 'datakit[{driver.EXTRA}]'"
        ) from exc
    if parsed.password is not None:
        parsed = parsed.set(password=Masked(parsed.password))
    dialect = dialect_class()
    target = _target(parsed, dialect, auth, tls, endpoint)
    if target is not None:
        own = dialect.create_connect_args(parsed)[1]
        check_tls(target, {**own, **kwargs.get("connect_args", {})})
    return _Plan(parsed, target)


def _target(
    url: URL, dialect: Dialect, auth: Auth, tls: Tls | str | None, endpoint: str | Endpoint
) -> Target | None:
    if "host" in url.query or "," in (url.host or ""):
        raise ConfigError("several hosts, or ?host=, in a database URL are not supported yet")
    driver = driver_for(dialect.name, dialect.driver)
    if not url.host:
        if auth is not None or tls is not None:
            raise ConfigError("auth= and tls= need a host in the URL")
        return None
    return Target(
        host=url.host,
        port=url.port or driver.DEFAULT_PORT,
        user=url.username or "",
        endpoint=endpoint_for(url.host, endpoint),
        driver=driver,
        tls=None if tls is None else Tls.of(tls),
        auth=_auth(auth),
    )


def _auth(given: Auth) -> PasswordAuth | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given != "iam":
            raise ConfigError("auth=: the only word is 'iam'; pass a password in the URL")
        return IamAuth()
    return password_auth(given)


def _install(
    engine: Engine, target: Target | None, waits: Blocking | Awaiting, retry: RetryPolicy | None
) -> None:
    if target is None:
        return
    policy = retry or default_policy(target.endpoint.deadline)
    clock = AwaitedClock() if engine.dialect.is_async else SYSTEM_CLOCK
    connector = Connector(target, waits, policy, clock)
    remember_connector(engine, connector)
    connector.install(engine)
    remember(engine, policy)
    if target.endpoint.pins:
        lint_pinning(engine)


def _shown(url: str | URL) -> str:
    """Return what is safe to show of a URL that may hold a password anywhere."""
    scheme, found, _ = str(url).partition("://")
    return f"{scheme}://..." if found else "a text without '://'"


def _checked(resolver: object, kind: type[R]) -> R | None:
    if resolver is None or isinstance(resolver, kind):
        return resolver
    raise ConfigError(f"resolver={resolver!r}: this engine needs a datakit {kind.__name__}")
