"""SQLAlchemy's own engines, connected through datakit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
from sqlalchemy import URL, Engine
from sqlalchemy.util import immutabledict

from datakit._clock import SYSTEM_CLOCK
from datakit.auth import Tls
from datakit.auth.masked import Masked
from datakit.db.connect import Connector, check_tls, mask_password
from datakit.db.description import remember_connector
from datakit.db.endpoint import Endpoint
from datakit.db.plan import Auth, plan_for, target_for
from datakit.db.policies import default_policy, remember
from datakit.db.sync_engine import sync_engine
from datakit.db.target import Target
from datakit.db.waiting import AwaitedClock, Awaiting, Blocking
from datakit.errors import ConfigError
from datakit.resilience import RetryPolicy

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from datakit.dns import AsyncResolver, Resolver

E = TypeVar("E", Engine, "AsyncEngine")
R = TypeVar("R", "Resolver", "AsyncResolver")


def create_engine(
    url: str | URL,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: "Resolver | None" = None,
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
    plan = plan_for("create_engine", url, auth, tls, endpoint, sqlalchemy_kwargs)
    waits = _blocking(resolver, plan.target)
    engine = sqlalchemy.create_engine(plan.url, **plan.kwargs(sqlalchemy_kwargs))
    _install(engine, plan.target, waits, retry)
    return engine


def create_async_engine(
    url: str | URL,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: "AsyncResolver | None" = None,
    retry: RetryPolicy | None = None,
    endpoint: str | Endpoint = "auto",
    **sqlalchemy_kwargs: Any,
) -> "AsyncEngine":
    """Return SQLAlchemy's asyncio engine; otherwise as `create_engine`.

    url: "postgresql+psycopg://..." or "mysql+aiomysql://...".
    """
    from sqlalchemy.ext import asyncio

    plan = plan_for("create_async_engine", url, auth, tls, endpoint, sqlalchemy_kwargs)
    waits = _awaiting(resolver, plan.target)
    engine = asyncio.create_async_engine(plan.url, **plan.kwargs(sqlalchemy_kwargs))
    _install(engine.sync_engine, plan.target, waits, retry)
    return engine


def attach(
    engine: E,
    *,
    auth: Auth = None,
    tls: Tls | str | None = None,
    resolver: "Resolver | AsyncResolver | None" = None,
    retry: RetryPolicy | None = None,
    endpoint: str | Endpoint = "auto",
) -> E:
    """Let an engine that exists connect through datakit; return it.

    The arguments are those of `create_engine`. The pool stays as it was made.

    Raises:
        ConfigError: as `create_engine`; datakit is attached already.
    """
    plain = sync_engine(engine)
    target = target_for(plain.url, plain.dialect, auth, tls, endpoint)
    if target is not None:
        check_tls(target, dict(plain.dialect.create_connect_args(plain.url)[1]))
        _mask(plain)
    chosen = _awaiting if plain.dialect.is_async else _blocking
    _install(plain, target, chosen(resolver, target), retry)
    return engine


def _install(
    engine: Engine, target: Target | None, waits: Blocking | Awaiting, retry: RetryPolicy | None
) -> None:
    if target is None:
        return
    policy = retry or default_policy(target.endpoint)
    clock = AwaitedClock() if engine.dialect.is_async else SYSTEM_CLOCK
    connector = Connector(target, waits, policy, clock)
    remember_connector(engine, connector)
    connector.install(engine)
    remember(engine, policy)
    if target.endpoint.pins:
        from datakit.db.pinning_lint import lint_pinning

        lint_pinning(engine)


def _mask(engine: Engine) -> None:
    """Have the password of an engine that SQLAlchemy made not shown in its frames.

    They hold it as a variable of the function that connects, with which the URL was read.
    """
    if engine.url.password is not None:
        engine.url = engine.url.set(password=Masked(engine.url.password))
    creator: Any = engine.pool._creator
    for cell in getattr(creator, "__closure__", None) or ():
        keywords = cell.cell_contents
        if isinstance(keywords, Mapping) and {"password", "passwd"} & keywords.keys():
            masked = dict(keywords)
            mask_password(masked)
            cell.cell_contents = immutabledict(masked)


def _blocking(resolver: object, target: Target | None) -> Blocking:
    if resolver is None and _may_ask_system(target):
        from datakit.dns.system import SystemFirst

        return Blocking(SystemFirst())
    from datakit.dns import Resolver

    return Blocking(_checked(resolver, Resolver) or Resolver())


def _awaiting(resolver: object, target: Target | None) -> Awaiting:
    if resolver is None and _may_ask_system(target):
        from datakit.dns.system import AsyncSystemFirst

        return Awaiting(AsyncSystemFirst())
    from datakit.dns import AsyncResolver

    return Awaiting(_checked(resolver, AsyncResolver) or AsyncResolver())


def _may_ask_system(target: Target | None) -> bool:
    """Whether the process is a cold one, whose first query should not wait for dnspython."""
    return target is not None and target.endpoint.kind == "lambda"


def _checked(resolver: object, kind: type[R]) -> R | None:
    if resolver is None or isinstance(resolver, kind):
        return resolver
    raise ConfigError(f"resolver={resolver!r}: this engine needs a datakit {kind.__name__}")
