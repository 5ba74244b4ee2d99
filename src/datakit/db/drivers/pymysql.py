"""PyMySQL."""

import socket
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from pymysql import connections, err
from pymysql.constants import CR

from datakit.db.drivers.limits import bounded, is_over, last_word, out_of_time, refuse_late
from datakit.db.drivers.mysql import (
    DEFAULT_PORT,
    GREETING,
    failed_midway,
    install,
    keywords,
    not_connected,
    refuse_clear_text,
    server_is_silent,
    set_options,
    takes_writes,
    timed_out,
    tls_keywords,
    tls_of,
    unreachable,
)
from datakit.db.drivers.watch import NO_WATCH, Watch, silent
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import current, deadline

if TYPE_CHECKING:
    from ssl import SSLContext

    from sqlalchemy.engine import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from datakit.db.endpoint import Endpoint

__all__ = [
    "DEFAULT_PORT", "EXTRA", "FACTORIES", "GREETING",
    "connect", "install", "keywords", "takes_writes", "tls_keywords", "tls_of", "unreachable",
]  # fmt: skip

_Base: Any = connections.Connection  # whose stubs leave the parts out that are overridden here

EXTRA: Final = "all"
FACTORIES: Final = ("create_engine",)


def connect(
    dialect: "Dialect", cparams: dict[str, Any], ip: str, seconds: float, endpoint: "Endpoint"
) -> "DBAPIConnection":
    """Return a connection to `ip`, made within `seconds`; TLS that fails midway is tried twice.

    Raises:
        pymysql.err.Error: there is none.
    """
    params = {key: value for key, value in cparams.items() if key != "connect_timeout"}
    if "ssl" in params and params["ssl"] is None:
        params["ssl_disabled"] = True  # None alone means TLS without verification, if there is any
    with deadline(seconds):
        try:
            return _connect(params, ip, seconds, endpoint)
        except err.OperationalError as exc:
            if not failed_midway(exc):
                raise
        return _connect(params, ip, seconds, endpoint)


def _connect(
    params: dict[str, Any], ip: str, seconds: float, endpoint: "Endpoint"
) -> "DBAPIConnection":
    host = params["host"]
    connection = _Connection(defer_connect=True, **params)
    try:
        sock = connection.dial(ip)
        set_options(sock, endpoint)
        connection.connect(sock)
        if not connection.unix_socket:
            connection._watch = Watch(ip, connection.port, GREETING, endpoint.silence)
    except DeadlineExceededError as exc:
        raise timed_out(host, ip, seconds) from exc
    except OSError as exc:
        raise not_connected(host, ip, exc) from exc
    except err.OperationalError as exc:
        connection._force_close()
        cause = getattr(exc, "original_exception", None)
        if cause is None:
            raise
        raise not_connected(host, ip, cause) from cause
    return cast("DBAPIConnection", connection)


class _Connection(_Base):  # type: ignore[misc]
    """Whose waits for the server end with the enclosing `deadline`, or when it is dead."""

    _watch = NO_WATCH

    def dial(self, ip: str) -> socket.socket:
        """Return a socket that is connected to `ip`, or to the Unix socket that was given.

        Raises:
            OSError: it is not.
        """
        seconds = bounded(None)
        if self.unix_socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(seconds)
            sock.connect(self.unix_socket)
            self._secure = True
            return sock
        source = None if self.bind_address is None else (self.bind_address, 0)
        return socket.create_connection((ip, self.port), seconds, source_address=source)

    def _create_ssl_ctx(self, sslp: Any) -> "SSLContext":
        return super()._create_ssl_ctx(sslp) if sslp else _preferred()

    @property
    def _read_timeout(self) -> float | None:
        return bounded(self._own_read_timeout)

    @_read_timeout.setter
    def _read_timeout(self, seconds: float | None) -> None:
        self._own_read_timeout = seconds

    @property
    def _write_timeout(self) -> float | None:
        return bounded(self._own_write_timeout)

    @_write_timeout.setter
    def _write_timeout(self, seconds: float | None) -> None:
        self._own_write_timeout = seconds

    def _execute_command(self, command: int, sql: Any) -> None:
        refuse_late()
        super()._execute_command(command, sql)

    def rollback(self) -> None:
        with last_word():
            super().rollback()

    def _force_close(self) -> None:
        """Close the link; rows that were on their way are not waited for by who lets them go."""
        super()._force_close()
        result = getattr(self, "_result", None)
        if result is not None:
            result.unbuffered_active = False

    def _read_bytes(self, num_bytes: int) -> bytes:
        try:
            return self._read_in_time(num_bytes)
        except (OSError, EOFError) as exc:
            self._force_close()
            _raise_if_over()
            raise err.OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({exc})"
            ) from exc
        except BaseException:
            self._force_close()
            raise

    def _read_in_time(self, num_bytes: int) -> bytes:
        """Return so many bytes, all within the `deadline`, in however many pieces they come."""
        if current.get() is not None and is_over():
            raise TimeoutError("timed out")
        parts, missing = [], num_bytes
        while missing:
            part = self._piece(missing)
            if not part:
                raise EOFError("the server closed the connection")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, missing: int) -> bytes:
        """Return the next bytes that come, from a server that lives."""
        for step, is_last in self._watch.steps(self._own_read_timeout):
            self._current_timeout = step
            self._sock.settimeout(step)
            try:
                return self._rfile.read1(missing)  # type: ignore[no-any-return]
            except TimeoutError:
                if is_last:
                    raise
            if not self._watch.is_alive(step):
                self._force_close()
                _raise_if_over()
                raise silent(server_is_silent(self._watch))
            self._rfile: Any = self._sock.makefile("rb")  # one that timed out reads no more
        raise AssertionError

    def _write_bytes(self, data: bytes) -> None:
        try:
            super()._write_bytes(data)
        except err.OperationalError:
            _raise_if_over()
            raise

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        refuse_clear_text(plugin_name, self._secure, self.host)
        return super()._process_auth(plugin_name, auth_packet, handler)


@cache
def _preferred() -> "SSLContext":
    """Return what PyMySQL uses where no TLS was asked for, and a server on loopback has it.

    It would load the system's authorities for each connection, 40 ms, and never ask them.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _raise_if_over() -> None:
    """Tell a wait that the `deadline` ended from a link that was lost."""
    if deadline.remaining() == 0:
        raise out_of_time() from None
