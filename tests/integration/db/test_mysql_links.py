"""PyMySQL and aiomysql: whose socket they use, and TLS that fails midway."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.exc import OperationalError

from datakit import Tls
from datakit.testing import MariadbServer

from .conftest import Database

Opened = Callable[..., Database]
PEER = "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()"
HANDSHAKE_FAILURE = b"\x15\x03\x03\x00\x02\x02\x28"
"""TLS: a fatal alert. Source: RFC 8446, section 6."""


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariadbServer]:
    with MariadbServer(tls=True) as server:
        yield server


async def test_the_address_to_connect_from_is_heeded(mariadb: MariadbServer) -> None:
    """aiomysql has no such keyword."""
    database = Database("sync", mariadb.url(), connect_args={"bind_address": "127.0.0.77"})
    peer = await database.scalar(PEER)
    assert peer.startswith("127.0.0.77:")
    await database.close()


async def test_a_unix_socket_is_used_where_one_is_given(
    opened: Opened, mariadb: MariadbServer
) -> None:
    ((path,),) = mariadb.query("SELECT @@socket")
    by_url = opened(f"{mariadb.url().replace('127.0.0.1', 'localhost')}?unix_socket={path}")
    assert await by_url.scalar(PEER) == "localhost"
    by_argument = opened(mariadb.url(), connect_args={"unix_socket": path})
    assert await by_argument.scalar(PEER) == "localhost"
    without_host = f"mysql+pymysql://app@/{mariadb.database}?unix_socket={path}"
    assert await opened(without_host).scalar(PEER) == "localhost"


class Breaking:
    """Relays to a server; breaks TLS off as it begins, the first `times` times."""

    def __init__(self, server: MariadbServer, times: int) -> None:
        self._server = server
        self._times = times
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Breaking":
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await asyncio.wait_for(asyncio.gather(*self._tasks), 10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        back, out = await asyncio.open_connection(self._server.address, self._server.port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.connections <= self._times:
                writer.write(await back.read(65_536))  # the greeting
                await reader.readexactly(36)  # the request for TLS
                await reader.read(65_536)
                writer.write(HANDSHAKE_FAILURE)
                await writer.drain()
            else:
                await asyncio.gather(_relay(reader, out), _relay(back, writer))
        for end in (out, writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("times", [1, 10_000])
async def test_tls_that_fails_midway_is_tried_once_more(
    opened: Opened, mariadb: MariadbServer, times: int
) -> None:
    async with Breaking(mariadb, times) as relay:
        url = mariadb.url().replace(str(mariadb.port), str(relay.port))
        database = opened(url, tls=Tls(ca=mariadb.certificate), pool_size=1)
        if times == 1:
            assert await database.scalar("SELECT 1") == 1
        else:
            with pytest.raises(OperationalError, match=r"\(2026, .*(?i:alert handshake failure)"):
                await asyncio.wait_for(database.scalar("SELECT 1"), 20)
        assert relay.connections == 2
        await database.close()
