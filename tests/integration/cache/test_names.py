"""A cache server is found by datakit's resolver, in time, and followed to where its name moves."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
from tests.integration.cache.conftest import AsyncSide, SyncSide

from datakit import AsyncResolver, CircuitBreaker, Resolver, events
from datakit.cache import Cache
from datakit.cache.backends.pool import PROBED_AFTER
from datakit.dns.answer import SUSPECT_HOLD
from datakit.errors import CacheUnavailableError, ConfigError
from datakit.testing import DnsServer, FaultProxy, MemcachedServer, RedisServer

NAME = "cache.shop.internal"
SCHEMES = {"redis": RedisServer, "memcached": MemcachedServer}
Sided = Callable[[Cache], Any]


@pytest.fixture(params=list(SCHEMES))
def pair(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """Two servers at one port of two addresses."""
    kind = SCHEMES[request.param]
    with ExitStack() as stack:
        first = stack.enter_context(kind(address="127.0.0.21"))
        yield [first, stack.enter_context(kind(address="127.0.0.22", port=first.port))]


def named(server: Any) -> str:
    return str(server.url).replace(server.address, NAME)


@pytest.mark.parametrize("kind", [Resolver, AsyncResolver])
def test_the_given_resolver_finds_the_server_for_threads_and_tasks(
    pair: list[Any], side_of: Sided, dns_server: DnsServer, kind: Any, monkeypatch: Any
) -> None:
    """Its settings hold on both sides, whichever of the two kinds it is."""
    monkeypatch.delattr(socket, "getaddrinfo")
    dns_server.set(NAME, "A", [pair[0].address], ttl=60)
    side = side_of(Cache(named(pair[0]), timeout=5, resolver=kind([dns_server.endpoint])))
    side.set("k", 1, 60)
    assert side.get("k") == 1
    assert dns_server.queries_for(NAME, "A") == 1


def test_another_kind_of_resolver_is_refused() -> None:
    with pytest.raises(ConfigError, match="Resolver"):
        Cache("redis://localhost", resolver="127.0.0.1")  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", ["silent", "servfail", "nxdomain"])
def test_a_name_that_cannot_be_found_makes_calls_slower_and_no_error(
    side_of: Sided, dns_server: DnsServer, failure: Any, seen: list[events.Event], product: Any
) -> None:
    """A resolver gives up after 5 s; a cache after its `connect_timeout`, and loads."""
    dns_server.fail(failure)
    resolver = Resolver([dns_server.endpoint])
    cache = Cache(f"redis://{NAME}", resolver=resolver, connect_timeout=0.2)
    get_product = side_of(cache).function(lambda n: product(n, "loaded", []))
    began = time.monotonic()
    assert get_product(7).name == "loaded"
    assert time.monotonic() - began < resolver._deadline / 2
    told = [event for event in seen if isinstance(event, events.CacheUnavailable)]
    assert told
    assert all(NAME in event.error for event in told)


def test_connections_move_when_the_name_has_left_for_longer_than_it_may_flap(
    pair: list[Any], side_of: Sided, dns_server: DnsServer, monkeypatch: Any, seen: list[Any]
) -> None:
    """Both servers live: nothing but the name tells."""
    monkeypatch.setattr("datakit.dns.departures.GRACE", 0.3)
    for pool in ("pool", "pool_async"):
        monkeypatch.setattr(f"datakit.cache.backends.{pool}.LOOK_EVERY", 0.05)
    old, new = pair
    dns_server.set(NAME, "A", [old.address], ttl=1)
    resolver = Resolver([dns_server.endpoint])
    side = side_of(Cache(named(old), timeout=5, resolver=resolver))
    side_of(Cache(new.url, timeout=5)).set("where", "new", 60)
    began = time.monotonic()
    side.set("where", "old", 60)
    dns_server.set(NAME, "A", [new.address], ttl=60)
    while side.get("where") == "old":
        assert time.monotonic() - began < 30
    assert time.monotonic() - began >= 1.0 + 0.3
    assert side.get("where") == "new"
    assert events.ConnectionMoved(NAME, old.address) in seen


def test_all_connections_lead_to_one_server_while_the_name_may_flap(
    pair: list[Any], side_of: Sided, dns_server: DnsServer, product: Any
) -> None:
    """Leases and invalidations must meet there; also those of threads and of tasks."""
    old, new = pair
    with (
        FaultProxy(old.address, old.port, host="127.0.0.31") as first,
        FaultProxy(new.address, new.port, host="127.0.0.32", port=first.port) as second,
    ):
        dns_server.set(NAME, "A", [first.host], ttl=0)
        url = f"{old.url.partition(':')[0]}://{NAME}:{first.port}"
        side = side_of(Cache(url, timeout=5, resolver=Resolver([dns_server.endpoint])))
        side.set("k", "old", 60)
        dns_server.set(NAME, "A", [second.host], ttl=0)
        first.delay(0.02)  # so that each caller needs a connection of its own
        get_product = side.function(lambda n: product(n, "loaded", []))
        assert len(get_product.crowd(20, 7)) == 20
        other = AsyncSide if isinstance(side, SyncSide) else SyncSide
        with closing(other(side.cache)) as twin:
            assert twin.get("k") == "old"
        assert first.connections >= 2
        assert second.connections == 0
        first.close()  # it is dead now, and the name leads elsewhere
        time.sleep(PROBED_AFTER)
        side.get("k")  # an event loop that did not run meanwhile learns what has happened
        side.set("k", "new", 60)
        assert second.connections >= 1


@pytest.fixture
def hanging(
    pair: list[Any], side_of: Sided, dns_server: DnsServer
) -> Iterator[tuple[FaultProxy, FaultProxy, Any]]:
    """A server about to hang, another one at the same port, and a cache that is told of the first
    alone, with a TTL that nobody waits for."""
    old, new = pair
    with (
        FaultProxy(old.address, old.port, host="127.0.0.31") as first,
        FaultProxy(new.address, new.port, host="127.0.0.32", port=first.port) as second,
    ):
        dns_server.set(NAME, "A", [first.host], ttl=300)
        url = f"{old.url.partition(':')[0]}://{NAME}:{first.port}"
        side = side_of(Cache(url, resolver=Resolver([dns_server.endpoint])))
        side.set("k", 1, 60)
        yield first, second, side


@pytest.mark.parametrize("is_there_still", [True, False])
def test_a_server_that_hangs_is_left_for_another_one_that_the_name_has(
    hanging: Any, dns_server: DnsServer, is_there_still: bool
) -> None:
    """However long the TTL: its silence has the DNS servers asked again. Its kernel accepts
    connections still."""
    first, second, side = hanging
    hosts = [first.host, second.host] if is_there_still else [second.host]
    dns_server.set(NAME, "A", hosts, ttl=300)
    first.black_hole()
    until = time.monotonic() + 20
    while second.connections == 0:
        side.get("k")
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_server_that_takes_no_more_connections_keeps_those_it_has(
    redis_server: RedisServer, side_of: Sided, product: Any
) -> None:
    """As one whose backlog is full."""
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        proxy.delay(0.05)
        side = side_of(
            Cache(f"redis://127.0.0.1:{proxy.port}", timeout=5, breaker=CircuitBreaker())
        )
        get_product = side.function(lambda n: product(n, "loaded", []))
        get_product(7)
        made = proxy.connections
        proxy._loop.call(_stop_listening(proxy))  # type: ignore[union-attr]
        get_product.crowd(20, 7)
        assert proxy.open_connections == made
        assert side.get("k") is None
        assert proxy.open_connections == made


async def _stop_listening(proxy: FaultProxy) -> None:
    assert proxy._server is not None
    proxy._server.close()


def test_connections_stay_while_nobody_can_say_where_the_name_leads(
    side_of: Sided, dns_server: DnsServer, monkeypatch: Any, redis_server: RedisServer
) -> None:
    """A connection that works is worth more than a record."""
    monkeypatch.setattr("datakit.dns.departures.GRACE", 0.0)
    for pool in ("pool", "pool_async"):
        monkeypatch.setattr(f"datakit.cache.backends.{pool}.LOOK_EVERY", 0.0)
    dns_server.set(NAME, "A", ["127.0.0.1"], ttl=1)
    resolver = Resolver([dns_server.endpoint])
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        cache = Cache(f"redis://{NAME}:{proxy.port}", timeout=5, resolver=resolver)
        side = side_of(cache)
        side.set("k", 1, 60)
        dns_server.fail("silent")
        time.sleep(1.1)
        assert [side.get("k") for _ in range(20)] == [1] * 20
        assert proxy.connections == 1


def test_a_demoted_primary_is_left_as_soon_as_it_says_so(
    side_of: Sided, dns_server: DnsServer
) -> None:
    """However long the TTL of the name's record is."""
    with (
        RedisServer(address="127.0.0.21") as old,
        RedisServer(address="127.0.0.22", port=old.port) as new,
    ):
        dns_server.set(NAME, "A", [old.address], ttl=300)
        side = side_of(Cache(named(old), timeout=5, resolver=Resolver([dns_server.endpoint])))
        side.set("k", "before", 60)
        time.sleep(SUSPECT_HOLD)  # a name is asked for no more often, whatever fails
        redis.Redis(old.address, old.port).replicaof(new.address, new.port)
        dns_server.set(NAME, "A", [new.address], ttl=300)
        with pytest.raises(CacheUnavailableError, match="ReadOnly"):
            side.set("k", "refused", 60)
        side.set("k", "after", 60)
        assert redis.Redis(new.address, new.port).exists("k")
