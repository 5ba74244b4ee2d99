"""The drivers' common face, and which one a URL names."""

from importlib import import_module
from typing import Any, Protocol, cast

from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection

from datakit.auth import Tls
from datakit.db.endpoint import Endpoint
from datakit.errors import ConfigError

_MODULES = {
    ("postgresql", "psycopg"): "psycopg",
    ("postgresql", "psycopg_async"): "psycopg",
    ("mysql", "pymysql"): "pymysql",
    ("mariadb", "pymysql"): "pymysql",
    ("mysql", "aiomysql"): "aiomysql",
    ("mariadb", "aiomysql"): "aiomysql",
}


class Driver(Protocol):
    """A module of this package. All times are seconds."""

    DEFAULT_PORT: int

    EXTRA: str
    """The extra of datakit that installs it."""

    FACTORIES: tuple[str, ...]
    """Which of `create_engine` and `create_async_engine` it serves."""

    GREETING: bytes
    """What a living server answers, sent on a new TCP connection; empty if it speaks first."""

    def keywords(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the driver's own keywords that `endpoint` asks for; the user's win over them."""
        ...

    def tls_of(self, cparams: dict[str, Any]) -> bool | None:
        """Return whether the keywords speak of TLS: that it is verified, or not; None if not."""
        ...

    def tls_keywords(self, tls: Tls) -> dict[str, Any]:
        """Return the driver's own keywords for `tls`."""
        ...

    def connect(
        self, dialect: Dialect, cparams: dict[str, Any], ip: str, seconds: float, endpoint: Endpoint
    ) -> DBAPIConnection:
        """Return a connection to `ip` by these keywords; `host` in them is what TLS checks.

        Raises:
            dialect.loaded_dbapi.Error: there is none, within `seconds`.
        """
        ...

    def takes_writes(self, connection: DBAPIConnection) -> bool:
        """Return whether the server of a new connection takes writes."""
        ...

    def unreachable(self, text: str) -> Exception:
        """Return the driver's own error for a server that could not be reached."""
        ...

    def install(self, dialect: Dialect) -> None:
        """Make an engine's own `dialect` safer where the driver needs it."""
        ...


def driver_for(name: str, driver: str) -> Driver:
    """Return what connects by the dialect `name` and the driver of a URL.

    Raises:
        ConfigError: there is nothing for them.
    """
    module = _MODULES.get((name, driver))
    if module is None:
        raise ConfigError(
            f"{name}+{driver} is not supported: use postgresql+psycopg, mysql+pymysql or "
            "mysql+aiomysql"
        )
    return cast("Driver", import_module(f"datakit.db.drivers.{module}"))
