"""What an engine is made of: what can be said of it before there is one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import URL, Pool, make_url
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from datakit.auth import PasswordAuth, Tls
from datakit.auth.masked import Masked
from datakit.auth.password import password_auth
from datakit.db.connect import check_tls, mask_password
from datakit.db.drivers import driver_for
from datakit.db.endpoint import Endpoint, endpoint_for
from datakit.db.pool import AsyncLookingPool, LookingPool
from datakit.db.target import Target
from datakit.errors import ConfigError, MissingExtraError

Auth = str | PasswordAuth | Callable[[], Any] | None


class Plan(NamedTuple):
    """What an engine is made of. target: None for a server behind a Unix socket."""

    url: URL
    target: Target | None
    pool: type[Pool]

    def kwargs(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return SQLAlchemy's keywords: those given, over those of the endpoint."""
        if "connect_args" in given:
            given = {**given, "connect_args": dict(given["connect_args"])}
            mask_password(given["connect_args"])
        if {"pool", "poolclass", "creator"} & given.keys():
            return given
        defaults: dict[str, Any] = {"poolclass": self.pool, "pool_use_lifo": True}
        if self.target is not None:
            endpoint = self.target.endpoint
            defaults["pool_size"] = endpoint.pool_size
            defaults["max_overflow"] = endpoint.max_overflow
        return {**defaults, **given}


def plan_for(
    factory: str,
    url: str | URL,
    auth: Auth,
    tls: Tls | str | None,
    endpoint: str | Endpoint,
    kwargs: dict[str, Any],
) -> Plan:
    """Return what `factory` makes an engine of. kwargs: SQLAlchemy's, as given.

    Raises:
        ConfigError, MissingExtraError: as `create_engine`.
    """
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
    if {"creator", "async_creator", "pool"} & kwargs.keys() and (auth, tls) != (None, None):
        raise ConfigError("auth= and tls= have no say where creator= or pool= makes connections")
    dialect = dialect_class()
    args = kwargs.get("connect_args", {})
    where = {part: args[part] for part in ("host", "port") if part in args}
    target = target_for(parsed.set(**where), dialect, auth, tls, endpoint)
    if target is not None:
        parsed = _with_first_host(parsed, target)
        own = dialect.create_connect_args(parsed)[1]
        check_tls(target, {**own, **kwargs.get("connect_args", {})})
    pool = LookingPool if factory == "create_engine" else AsyncLookingPool
    return Plan(parsed, target, pool)


def target_for(
    url: URL, dialect: Dialect, auth: Auth, tls: Tls | str | None, endpoint: str | Endpoint
) -> Target | None:
    """Return where a URL leads to, None for a server behind a Unix socket.

    Raises:
        ConfigError: the URL's form is not supported, or the arguments do not go together.
    """
    driver = driver_for(dialect.name, dialect.driver)
    hosts = hosts_of(url, driver.DEFAULT_PORT)
    if not hosts:
        if auth is not None or tls is not None:
            raise ConfigError("auth= and tls= need a host in the URL")
        return None
    profile = endpoint_for(hosts[0][0], endpoint)
    if len(hosts) > 1 and profile.kind != "reader":
        profile = replace(profile, writes=True)  # they are candidates for the writer
    return Target(
        hosts=hosts,
        user=url.username or "",
        endpoint=profile,
        driver=driver,
        tls=None if tls is None else Tls.of(tls),
        auth=_auth(auth),
    )


def _with_first_host(url: URL, target: Target) -> URL:
    """Return `url` in the form that all dialects read; the connect path knows the other hosts."""
    if "host" not in url.query:
        return url
    host, port = target.hosts[0]
    return url.difference_update_query(["host"]).set(host=host, port=port)


def hosts_of(url: URL, default_port: int) -> tuple[tuple[str, int], ...]:
    """Return the hosts and ports of a URL, () for a Unix socket.

    Raises:
        ConfigError: they cannot be read.
    """
    listed = url.normalized_query.get("host", ())
    if "," in (url.host or "") or any("," in each for each in listed):
        raise ConfigError("several hosts in a database URL: write ?host=a:5432&host=b:5432")
    if url.host:
        if listed:
            raise ConfigError("a database URL with a host and ?host=: write all of them as ?host=")
        return ((url.host, url.port or default_port),)
    hosts = tuple(_host_and_port(each, default_port) for each in listed if each)
    if any(host.startswith("/") for host, _ in hosts):
        if len(hosts) > 1:
            raise ConfigError("?host= with a Unix socket: it cannot stand beside other hosts")
        return ()
    return hosts


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or "/" in text:
        return text.strip("[]"), default_port
    if not port.isdecimal() or not 0 < int(port) < 65_536 or not host:
        raise ConfigError(f"?host={text} in a database URL: expected host or host:port")
    return host.strip("[]"), int(port)


def _auth(given: Auth) -> PasswordAuth | None:
    if given is None:
        return None
    if not isinstance(given, str):
        return password_auth(given)
    if given != "iam":
        raise ConfigError("auth=: the only word is 'iam'; pass a password in the URL")
    from datakit.auth import IamAuth

    return IamAuth()


def _shown(url: str | URL) -> str:
    """Return what is safe to show of a URL that may hold a password anywhere."""
    scheme, found, _ = str(url).partition("://")
    return f"{scheme}://..." if found else "a text without '://'"
