"""Many processes and one key."""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest
import redis

from datakit.cache import Cache
from datakit.testing import FakeClock, RedisServer

PROGRAM = Path(__file__).with_name("crowd.py")


@pytest.fixture(params=["redis", "memcached"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_server").url)


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def counter(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


def start(stack: ExitStack, *args: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, str(PROGRAM), *args]
    process = stack.enter_context(
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.kill)
    return process


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_8_processes_of_50_callers_load_an_expired_key_once(
    url: str, redis_server: RedisServer, namespace: str, counter: Any
) -> None:
    """Half of them threads, half of them tasks."""
    clock = FakeClock(wall=1_000_000_000.0)  # what it stores has expired long ago
    cache = Cache(url, namespace=namespace, timeout=5, clock=clock)
    cache.set("square:7", 1, ttl=60)
    assert cache.get("square:7") == 1
    with ExitStack() as stack:
        sides = ["threads", "tasks"] * 4
        crowd = [start(stack, url, redis_server.url, namespace, side) for side in sides]
        assert [line(process) for process in crowd] == ["ready"] * 8
        for process in crowd:
            go(process)
        assert [line(process) for process in crowd] == [str([49] * 50)] * 8
    assert int(counter.get(f"{namespace}:loads")) == 1
    cache.close()


def test_a_lease_whose_holder_died_ends(
    url: str, redis_server: RedisServer, namespace: str, counter: Any
) -> None:
    """The others wait for it, and then one of them loads."""
    with ExitStack() as stack:
        dying = start(stack, url, redis_server.url, namespace, "dies")
        waiting = start(stack, url, redis_server.url, namespace, "threads")
        assert line(dying) == line(waiting) == "ready"
        go(dying)
        assert line(dying) == "loading"
        dying.kill()
        go(waiting)
        assert line(waiting) == str([49] * 50)
    assert int(counter.get(f"{namespace}:loads")) == 2


def test_an_invalidation_by_another_process_wins_over_a_load_that_is_joined(
    url: str, namespace: str
) -> None:
    """Who calls after it gets nothing that was loaded before it."""
    ours, theirs = (Cache(url, namespace=namespace, timeout=5) for _ in range(2))
    source = ["old"]
    loading, go_on = Event(), Event()

    def load() -> str:
        value = source[0]
        loading.set()
        assert go_on.wait(10)
        return value

    def begun_before() -> str:
        return ours.get_or_load("k", load, 60)

    def joined() -> str:
        asked.release()
        return ours.get_or_load("k", load, 60)

    asked = Semaphore(0)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(begun_before)
        assert loading.wait(10)
        source[0] = "new"
        theirs.delete("k")
        others = [pool.submit(joined) for _ in range(2)]
        assert asked.acquire(timeout=10)
        assert asked.acquire(timeout=10)
        time.sleep(0.2)  # so that they join, as they would without us
        go_on.set()
        assert first.result() == "old"
        assert [one.result() for one in others] == ["new", "new"]
    assert ours.get("k") == "new"
    ours.close()
    theirs.close()


async def test_an_invalidation_by_another_process_wins_over_a_batch_that_is_joined(
    url: str, namespace: str
) -> None:
    """The same for tasks, one id and many."""
    ours, theirs = (Cache(url, namespace=namespace, timeout=5) for _ in range(2))
    source = ["old"]
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    @ours.cached(ttl=60, key="one:{n}")
    async def one(n: int) -> str:
        value = source[0]
        begun.release()
        await go_on.wait()
        return value

    @ours.cached_many(ttl=60, by="ids", key="many:{ids}")
    async def many(ids: Sequence[int]) -> dict[int, str]:
        value = source[0]
        begun.release()
        await go_on.wait()
        return dict.fromkeys(ids, value)

    before = [asyncio.create_task(one(7)), asyncio.create_task(many([7, 8]))]
    await begun.acquire()
    await begun.acquire()
    source[0] = "new"
    await theirs.aio.delete("one:7")
    await theirs.aio.delete("many:7")
    after = [asyncio.create_task(one(7)), asyncio.create_task(many([7, 9]))]
    await asyncio.sleep(0.2)  # so that they join, as they would without us
    go_on.set()
    assert await asyncio.gather(*before) == ["old", {7: "old", 8: "old"}]
    assert await asyncio.gather(*after) == ["new", {7: "new", 9: "new"}]
    await ours.aio.close()
    await theirs.aio.close()
