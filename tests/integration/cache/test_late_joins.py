"""A load is joined by nobody any more once its value may be in the store."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.integration.cache.conftest import wait_until_held

from datakit.cache import Cache
from datakit.testing import FaultProxy

HELD = 2.0
"""Seconds for which the reply to a fill is held back."""


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def proxy(server: Any) -> Iterator[FaultProxy]:
    with FaultProxy(server.address, server.port) as proxy:
        yield proxy


@pytest.fixture
def caches(server: Any, proxy: FaultProxy) -> Iterator[tuple[Cache, Cache]]:
    """Ours, through the proxy, and that of another process."""
    namespace = uuid.uuid4().hex
    scheme = server.url.partition(":")[0]
    ours = Cache(f"{scheme}://{proxy.host}:{proxy.port}", namespace=namespace, timeout=5)
    theirs = Cache(server.url, namespace=namespace, timeout=5)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_thread_joins_no_load_whose_value_was_sent(
    caches: tuple[Cache, Cache], proxy: FaultProxy
) -> None:
    """Another process may have invalidated it since: the store is asked."""
    ours, theirs = caches
    source = ["old"]

    def load() -> str:
        if source == ["old"]:
            proxy.delay(HELD)
        return source[0]

    @ours.cached_many(ttl=60, by="ids", key="many:{ids}")
    def many(ids: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(ids, load())

    def one() -> str:
        return ours.get_or_load("one", load, 60)

    with ThreadPoolExecutor(1) as pool:
        for key, call, old, new in (
            ("one", one, "old", "new"),
            ("many:7", lambda: many([7]), {7: "old"}, {7: "new"}),
        ):
            source[0] = "old"
            before = pool.submit(call)
            wait_until_held(proxy)
            proxy.heal()
            assert theirs.get(key) is not None
            source[0] = "new"
            theirs.delete(key)
            assert call() == new
            assert not before.done()
            assert before.result() == old


async def test_a_task_joins_no_load_whose_value_was_sent(
    caches: tuple[Cache, Cache], proxy: FaultProxy
) -> None:
    """The same for tasks, one id and many."""
    ours, theirs = caches
    source = ["old"]

    async def load() -> str:
        if source == ["old"]:
            proxy.delay(HELD)
        return source[0]

    @ours.cached(ttl=60, key="one:{n}")
    async def one(n: int) -> str:
        return await load()

    @ours.cached_many(ttl=60, by="ids", key="many:{ids}")
    async def many(ids: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(ids, await load())

    for key, call, old, new in (
        ("one:7", lambda: one(7), "old", "new"),
        ("many:7", lambda: many([7]), {7: "old"}, {7: "new"}),
    ):
        source[0] = "old"
        before = asyncio.create_task(call())
        await asyncio.to_thread(wait_until_held, proxy)
        proxy.heal()
        assert theirs.get(key) is not None
        source[0] = "new"
        theirs.delete(key)
        assert await call() == new
        assert not before.done()
        assert await before == old
    await ours.aio.close()


def failing_at_first(begun: threading.Event, go_on: threading.Event) -> Callable[[], str]:
    """Return a loader that fails once it may go on, and returns "new" from then on."""
    outcomes = iter([True])

    def load() -> str:
        begun.set()
        assert go_on.wait(10)
        if next(outcomes, False):
            raise OSError("the database is away")
        return "new"

    return load


STALE: Any = {"ttl": 0.05, "stale_if_error": 60, "key": "stale:{n}"}


def test_a_thread_is_not_served_for_a_failed_load_what_was_invalidated_before_its_call(
    caches: tuple[Cache, Cache],
) -> None:
    """By another process, while the load ran; who called before that is served."""
    ours, theirs = caches
    begun, go_on = threading.Event(), threading.Event()
    load = failing_at_first(begun, go_on)

    @ours.cached(**STALE)
    def one(n: int) -> str:
        return load()

    one.put("old", 7)
    time.sleep(0.1)
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(one, 7)
        assert begun.wait(10)
        theirs.delete("stale:7")
        after = pool.submit(one, 7)
        time.sleep(0.2)  # it joins the load
        go_on.set()
        assert after.result(10) == "new"
        assert before.result(10) == "old"


async def test_a_task_is_not_served_for_a_failed_load_what_was_invalidated_before_its_call(
    caches: tuple[Cache, Cache],
) -> None:
    """The same for tasks."""
    ours, theirs = caches
    begun, go_on = threading.Event(), threading.Event()
    load = failing_at_first(begun, go_on)

    @ours.cached(**STALE)
    async def one(n: int) -> str:
        return await asyncio.to_thread(load)

    await one.put("old", 7)
    await asyncio.sleep(0.1)
    before = asyncio.create_task(one(7))
    assert await asyncio.to_thread(begun.wait, 10)
    await asyncio.to_thread(theirs.delete, "stale:7")
    after = asyncio.create_task(one(7))
    await asyncio.sleep(0.2)  # it joins the load
    go_on.set()
    assert await after == "new"
    assert await before == "old"
    await ours.aio.close()
