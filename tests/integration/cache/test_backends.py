"""The conformance suite on every backend, for threads and for tasks."""

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from datakit._clock import SYSTEM_CLOCK
from datakit.cache.backends.opening import Backends
from datakit.cache.backends.url import parse_url
from datakit.cache.entry import Entry
from datakit.testing import FakeClock, MemcachedServer, RedisServer, backend_suite
from datakit.testing.backend_suite import Check, Subject

STORES = ["memory", "memory by bytes", "redis", "memcached"]


def kept_in_memory(payload: bytes) -> Entry:
    return Entry(0.0, math.inf, payload)


@pytest.fixture(params=["sync", "async"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=STORES)
async def subject(
    request: pytest.FixtureRequest,
    side: str,
    redis_server: RedisServer,
    memcached_server: MemcachedServer,
) -> AsyncIterator[Subject]:
    is_remote = request.param in ("redis", "memcached")
    clock: Any = SYSTEM_CLOCK if is_remote else FakeClock()
    urls = {"redis": redis_server.url, "memcached": memcached_server.url}
    by_bytes = request.param == "memory by bytes"
    url = urls.get(request.param, "memory://")
    limits: dict[str, Any] = {"limit": 10_000_000 if by_bytes else 1000, "by_bytes": by_bytes}
    backends = Backends(
        parse_url(url), timeout=5, connect_timeout=5, resolver=None, clock=clock, **limits
    )
    backend: Any = backends.for_threads() if side == "sync" else backends.for_tasks()
    if url == "memory://":
        yield Subject(backend, stored=kept_in_memory, sleep=clock.asleep)
        return
    yield Subject(backend, shortest=2.0 if request.param == "memcached" else 0.05)
    if side == "sync":
        backend.close()
    else:
        await backend.close()


@pytest.mark.parametrize("check", backend_suite.CHECKS, ids=backend_suite.name_of)
async def test_conformance(check: Check, subject: Subject) -> None:
    """Every check on every store, from both sides."""
    await check(subject)
