"""Many processes and one key."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
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
