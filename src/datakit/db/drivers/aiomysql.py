"""aiomysql."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiomysql.connection import Connection
from pymysql import err

from datakit.db.drivers.limits import is_over, last_word, out_of_time, refuse_late
from datakit.db.drivers.mysql import (
    DEFAULT_PORT,
    GREETING,
    failed_midway,
    install,
    keywords,
    not_connected,
    refuse_clear_text,
    refuse_downgrade,
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
    from sqlalchemy.engine import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from datakit.db.endpoint import Endpoint

__all__ = [
    "DEFAULT_PORT", "EXTRA", "FACTORIES", "GREETING",
    "connect", "install", "keywords", "takes_writes", "tls_keywords", "tls_of", "unreachable",
]  # fmt: skip

EXTRA: Final = "aiomysql"
FACTORIES: Final = ("create_async_engine",)


def connect(
    dialect: "Dialect", cparams: dict[str, Any], ip: str, seconds: float, endpoint: "Endpoint"
) -> "DBAPIConnection":
    """Return a connection to `ip`, made within `seconds`; TLS that fails midway is tried twice.

    Raises:
        pymysql.err.Error: there is none.
    """

    async def create(**params: Any) -> Connection:
        params.pop("connect_timeout", None)
        with deadline(seconds):
            try:
                return await _connect(params, ip, seconds, endpoint)
            except err.OperationalError as exc:
                if not failed_midway(exc):
                    raise
            return await _connect(params, ip, seconds, endpoint)

    return dialect.connect(async_creator_fn=create, **cparams)


async def _connect(
    params: dict[str, Any], ip: str, seconds: float, endpoint: "Endpoint"
) -> Connection:
    connection = _Connection(ip=ip, endpoint=endpoint, **params)
    try:
        async with asyncio.timeout(deadline.remaining()):
            await connection._connect()
    except (DeadlineExceededError, TimeoutError) as exc:
        connection.close()
        raise timed_out(params["host"], ip, seconds) from exc
    except err.OperationalError as exc:
        connection.close()
        cause = exc.__cause__
        if not isinstance(cause, OSError):
            raise
        raise not_connected(params["host"], ip, cause) from cause
    return connection


class _Connection(Connection):  # type: ignore[misc]
    """Goes to an address, checks TLS by name, and waits no longer than the `deadline`."""

    _writer: Any = None  # also where __init__ refuses a keyword, and __del__ looks for it

    def __init__(self, *, ip: str, endpoint: "Endpoint", **params: Any) -> None:
        self._ip = ip
        self._endpoint = endpoint
        super().__init__(**params)
        self._watch = (
            NO_WATCH if self._unix_socket else Watch(ip, self._port, GREETING, endpoint.silence)
        )

    @property
    def _host(self) -> str:
        """The address while aiomysql opens the connection, the name when it checks TLS."""
        return self._ip if self._writer is None else self._name

    @_host.setter
    def _host(self, name: str) -> None:
        self._name = name
        self._writer = None

    def close(self) -> None:
        """Close the link at once: TLS would wait for the server, beyond the loop's end."""
        writer = self._writer
        super().close()
        if writer is not None:
            writer.transport.abort()

    async def _request_authentication(self) -> None:
        set_options(self._writer.transport.get_extra_info("socket"), self._endpoint)
        refuse_downgrade(self._ssl_context is not None, self.server_capabilities, self._name)
        secure = self._secure or self._ssl_context is not None
        plugin = self._client_auth_plugin or self._server_auth_plugin  # the first packet's
        refuse_clear_text(plugin, secure, self._name)
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> None:
        refuse_clear_text(plugin_name, self._secure, self._name)
        await super()._process_auth(plugin_name, auth_packet)

    async def _execute_command(self, command: int, sql: Any) -> None:
        refuse_late()
        await super()._execute_command(command, sql)

    async def rollback(self) -> None:
        with last_word():
            await super().rollback()

    async def _read_bytes(self, num_bytes: int) -> bytes:
        if current.get() is not None and is_over():  # what has come would be read without a wait
            self.close()
            raise out_of_time()
        reader: Any = self._reader
        if len(reader._buffer) >= num_bytes:
            return await super()._read_bytes(num_bytes)  # type: ignore[no-any-return]
        for step, is_last in self._watch.steps(None):
            limit = asyncio.timeout(step)
            try:
                async with limit:
                    return await super()._read_bytes(num_bytes)  # type: ignore[no-any-return]
            except TimeoutError:
                if not limit.expired():
                    raise
            if is_last or not await self._watch.is_alive_async(step):
                self.close()
                if is_over():
                    raise out_of_time()
                raise silent(server_is_silent(self._watch))
        raise AssertionError
