"""While a server is away one caller probes it; the crowd waits for what it finds."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy.exc import OperationalError

from datakit import RetryPolicy, events
from datakit.db import connect
from datakit.testing import PostgresNode

from .conftest import Database

CALLERS = 40


class Refusing:
    """Accepts connections, counts them and closes them at once."""

    def __init__(self) -> None:
        self.count = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._listener.accept()[0].close()
                self.count += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    server = Refusing()
    yield server
    server.close()


async def test_two_engines_of_one_endpoint_share_the_prober(
    opened: Callable[..., Database], refusing: Refusing, postgres: PostgresNode
) -> None:
    """As the sync and the asyncio engine of one application do."""
    url = postgres.url().replace(f":{postgres.port}/", f":{refusing.port}/")
    url = url.replace(postgres.address, "127.0.0.1")
    policy = RetryPolicy(base=1.0, cap=1.0, deadline=2.0)
    first, second = opened(url, retry=policy), opened(url, retry=policy)
    calls = [asyncio.create_task(first.scalar("SELECT 1"))]
    key = next(key for key in connect._gates if str(refusing.port) in repr(key))
    gate = connect._gates[key]
    while not gate.closed:  # noqa: ASYNC110 - a gate has no event
        await asyncio.sleep(0.01)
    calls.append(asyncio.create_task(second.scalar("SELECT 1")))
    while not gate.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.gather(*calls, return_exceptions=True)
    assert sum(str(refusing.port) in repr(key) for key in connect._gates) == 1


async def test_a_crowd_does_not_storm_a_server_that_is_away(
    opened: Callable[..., Database], refusing: Refusing, postgres: PostgresNode
) -> None:
    url = postgres.url().replace(f":{postgres.port}/", f":{refusing.port}/")
    url = url.replace(postgres.address, "127.0.0.1")
    database = opened(url, pool_size=CALLERS, retry=RetryPolicy(base=0.05, cap=0.2, deadline=2.0))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CALLERS))
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    crowd = [asyncio.create_task(database.scalar("SELECT 1")) for _ in range(CALLERS)]
    results = await asyncio.gather(*crowd, return_exceptions=True)
    unsubscribe()
    assert {type(result) for result in results} == {OperationalError}
    assert any(isinstance(event, events.GateClosed) for event in seen)
    # Each calls once before it is known; then 2 s of probes 100 ms apart on average.
    assert CALLERS / 4 < refusing.count < CALLERS + 60
    said = (
        "closed",
        "connection failed",
        "timeout expired",
    )  # the last where the deadline ends one
    assert all(any(words in str(r) for words in said) for r in results)
