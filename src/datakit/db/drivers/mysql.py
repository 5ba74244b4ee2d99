"""What PyMySQL and aiomysql have in common."""

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from pymysql import err
from pymysql.constants import CLIENT, CR

from datakit.db.drivers.limits import last_word

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from datakit.auth import Tls
    from datakit.db.endpoint import Endpoint

DEFAULT_PORT: Final = 3306

_CLEAR: Final = frozenset({"mysql_clear_password", "dialog"})
"""Plugins that send the password as it is."""


def keywords(endpoint: "Endpoint") -> dict[str, Any]:
    """Return nothing: these drivers have no keywords for keepalives or statements."""
    return {}


def tls_of(cparams: dict[str, Any]) -> bool | None:
    """Return whether `ssl` and its kin verify the host; None when there are none.

    As PyMySQL has it: `ssl_disabled` wins over all, the other `ssl_...` win over `ssl`, and
    without an authority neither the certificate nor the name is looked at.
    """
    given = cparams.get("ssl")
    own = {key for key, value in cparams.items() if key.startswith("ssl_") and value}
    if not given and not own:
        return None
    if "ssl_disabled" in own:
        return False
    if own:
        return {"ssl_ca", "ssl_verify_identity"} <= own
    if isinstance(given, dict):
        known = given.get("ca") or given.get("capath")
        return bool(known) and bool(given.get("check_hostname", True))
    return bool(getattr(given, "check_hostname", False))


def tls_keywords(tls: "Tls") -> dict[str, Any]:
    """Return the `ssl` keyword."""
    return {"ssl": tls.context()}


def install(dialect: "Dialect") -> None:
    """Let `dialect` put an isolation level back when the deadline is over.

    SQLAlchemy's pool loses the place of a connection that fails to, and MySQL has to be asked.
    """
    reset = dialect.reset_isolation_level

    def reset_isolation_level(connection: "DBAPIConnection") -> None:
        with last_word():
            reset(connection)

    dialect.reset_isolation_level = reset_isolation_level  # type: ignore[method-assign, assignment]


ROLE: Final = "SELECT @@innodb_read_only | @@read_only"
"""Not 0 on a server that takes no writes. Source: Aurora User Guide, `innodb_read_only`."""


GREETING: Final = b""
"""The server speaks first."""


def takes_writes(connection: "DBAPIConnection") -> bool:
    """Return whether the server takes writes."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(ROLE)
        row = cursor.fetchone()
    return row is not None and not int(row[0])


def set_options(sock: socket.socket, endpoint: "Endpoint") -> None:
    """Set on a connected socket what the drivers leave out."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", endpoint.keepalive_idle),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 5),
        ("TCP_USER_TIMEOUT", 1_000 * (endpoint.keepalive_idle + 5)),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def refuse_clear_text(plugin: str | bytes, secure: bool, host: str) -> None:
    """Let no password go unencrypted.

    Raises:
        pymysql.err.OperationalError: `plugin` would send it over a link that is not `secure`.
    """
    name = plugin.decode() if isinstance(plugin, bytes) else plugin
    if name in _CLEAR and not secure:
        raise err.OperationalError(
            CR.CR_AUTH_PLUGIN_ERR,
            f"{host} asks for the password in clear text ({name}) over a link without TLS: "
            "refused; pass tls=Tls(...)",
        )


def refuse_downgrade(wants_tls: bool, capabilities: int, host: str) -> None:
    """Let no link go on unencrypted that was meant to be encrypted.

    Raises:
        pymysql.err.OperationalError: the server has no TLS.
    """
    if wants_tls and not capabilities & CLIENT.SSL:
        raise err.OperationalError(
            CR.CR_SSL_CONNECTION_ERROR, f"TLS is required, but {host} does not offer it"
        )


def not_connected(host: str, ip: str, cause: BaseException | None) -> err.OperationalError:
    """Return the error of an attempt to connect that `cause` ended.

    TLS that failed, since the server did not prove who it is or midway, has another number than
    a link that was lost.
    """
    import ssl

    lost = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    failed = isinstance(cause, ssl.SSLError) and not lost
    code = CR.CR_SSL_CONNECTION_ERROR if failed else CR.CR_CONN_HOST_ERROR
    return err.OperationalError(code, f"Can't connect to MySQL server on {host!r} ({ip}): {cause}")


def failed_midway(exc: err.OperationalError) -> bool:
    """Return whether TLS failed and may not the next time: no certificate was refused."""
    import ssl

    cause = exc.__cause__
    if exc.args[0] != CR.CR_SSL_CONNECTION_ERROR or isinstance(cause, ssl.SSLCertVerificationError):
        return False
    return isinstance(cause, ssl.SSLError)


def unreachable(text: str) -> err.OperationalError:
    """Return the drivers' error for a server that could not be reached."""
    return err.OperationalError(CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server: {text}")


def server_is_silent(server: object) -> err.OperationalError:
    """Return the drivers' error for a server that does not live, inside a statement."""
    return err.OperationalError(CR.CR_SERVER_LOST, f"the server at {server} is silent")


def timed_out(host: str, ip: str, seconds: float) -> err.OperationalError:
    """Return the error of an attempt to connect that took too long."""
    return err.OperationalError(
        CR.CR_CONN_HOST_ERROR,
        f"Can't connect to MySQL server on {host!r} ({ip}): timed out after {seconds:.3g} s",
    )
