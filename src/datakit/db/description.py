"""What an engine of datakit does, in words."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from datakit.db.connect import Connector
from datakit.db.sync_engine import sync_engine
from datakit.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_connectors: WeakKeyDictionary[Engine, Connector] = WeakKeyDictionary()


def remember_connector(engine: Engine, connector: Connector) -> None:
    """Note that `connector` serves `engine`.

    Raises:
        ConfigError: another one does.
    """
    if engine in _connectors:
        raise ConfigError(f"datakit is attached to this engine of {connector.target.host} already")
    _connectors[engine] = connector


def describe(engine: "Engine | AsyncEngine") -> str:
    """Return how `engine` connects, in lines of "name: value"; times are seconds, no secrets.

    Raises:
        ConfigError: it is no engine of datakit, or it has no host.
    """
    plain = sync_engine(engine)
    connector = _connectors.get(plain)
    if connector is None:
        raise ConfigError("describe() needs an engine of datakit with a host in its URL")
    target, endpoint = connector.target, connector.target.endpoint
    probe = "never" if endpoint.probe_after is None else f"after {endpoint.probe_after:g} s idle"
    hosts = ", ".join(f"{host}:{port}" for host, port in target.hosts)
    lines = {
        "endpoint": f"{endpoint.kind}, {hosts}",
        "driver": f"{plain.dialect.name}+{plain.dialect.driver}",
        "auth": "password of the URL" if target.auth is None else repr(target.auth),
        "tls": "verify-full off loopback" if target.tls is None else target.tls.mode,
        "pool": f"{plain.pool.status()}; recycled after {connector.upkeep.recycle:g} s",
        "probe": probe,
        "connect": f"{endpoint.connect_timeout:g} s an attempt, {connector.deadline:g} s in all",
        "pinning linter": "on" if endpoint.pins else "off",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())
