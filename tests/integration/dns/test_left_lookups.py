"""A lookup that its caller left for stale data: what its answer may still change, and what not."""

import asyncio
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from datakit import AsyncResolver, Resolver, deadline
from datakit.errors import DeadlineExceededError, DnsError, ResolveTimeoutError
from datakit.testing import DnsServer

from .conftest import ShiftedClock

NAME = "db.shop.internal"
OLD, NEW = ("192.0.2.1",), ("192.0.2.2",)
both = pytest.mark.parametrize("kind", ["sync", "async"])


class Twin:
    """A resolver of either kind, driven from async tests, whose one name has a left lookup."""

    def __init__(self, kind: str, server: DnsServer, timeout: float = 2.0) -> None:
        self.server = server
        self.clock = ShiftedClock()
        make = Resolver if kind == "sync" else AsyncResolver
        self.resolver = make([server.endpoint], clock=self.clock, timeout=timeout)

    async def ask(self, method: str, *args: object) -> Any:
        found = getattr(self.resolver, method)
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(found, *args)
        return await found(*args)

    async def leave(self, seconds: float = 0.4) -> None:
        """Have a query under way that brings the old address so much later."""
        self.server.set(NAME, "A", OLD, ttl=1)
        await self.ask("lookup", NAME)
        self.clock.advance(1.01)
        self.server.set(NAME, "A", OLD, ttl=300)
        self.server.fail("late", seconds=seconds)
        with deadline(0.2):
            assert (await self.ask("lookup", NAME)).source == "stale"
        self.server.heal()
        await asyncio.sleep(0.02)  # the answer that is late is made when its time has come


@both
@pytest.mark.parametrize("arrival", ["before", "after"])
async def test_an_answer_that_is_late_does_not_replace_a_newer_one(
    kind: str, arrival: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, dns_server)
    changes: list[Any] = []
    await twin.leave()
    twin.resolver.watch(NAME, changes.append)
    if arrival == "before":
        await asyncio.sleep(0.5)  # it has come, and tells the old address
        dns_server.set(NAME, "A", NEW, ttl=1)
    else:
        dns_server.set(NAME, "A", NEW, ttl=1)
    assert (await twin.ask("refresh", NAME)).records == NEW
    dns_server.set(NAME, "A", OLD, ttl=300)
    twin.clock.advance(1.01)
    dns_server.fail("servfail")
    for _ in range(3):
        assert (await twin.ask("lookup", NAME)).records == NEW
    assert [change.after for change in changes] == [set(NEW)]


@both
async def test_a_late_answer_of_before_flush_is_forgotten_too(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, dns_server)
    await twin.leave()
    twin.resolver.flush()
    dns_server.fail("servfail")
    await asyncio.sleep(0.5)
    for _ in range(2):
        with pytest.raises(DnsError):
            await twin.ask("lookup", NAME)


@both
async def test_a_late_answer_does_not_answer_a_failure_reported_meanwhile(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, dns_server)
    await twin.leave()
    twin.resolver.report_failure(NAME, OLD[0])
    await asyncio.sleep(0.5)
    dns_server.set(NAME, "A", NEW, ttl=300)
    give_up_at = time.monotonic() + 3
    while (await twin.ask("lookup", NAME)).records != NEW:
        assert time.monotonic() < give_up_at, "the servers were not asked again"
        await asyncio.sleep(0.05)


@both
async def test_whoever_waits_for_anothers_lookup_has_stale_data_in_time(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, dns_server)
    dns_server.set(NAME, "A", OLD, ttl=1)
    await twin.ask("lookup", NAME)
    twin.clock.advance(1.01)
    dns_server.fail("silent")
    patient = asyncio.create_task(twin.ask("lookup", NAME))
    await asyncio.sleep(0.1)
    with deadline(0.5):
        hurried = await twin.ask("lookup", NAME)
        assert deadline.remaining()  # there is time to use it
    assert (hurried.records, hurried.source) == (OLD, "stale")
    assert not patient.done()
    assert (await patient).source == "stale"
    assert dns_server.queries_for(NAME) == 2


@both
async def test_a_deadline_that_is_over_has_what_is_known(kind: str, dns_server: DnsServer) -> None:
    twin = Twin(kind, dns_server)
    dns_server.set(NAME, "A", OLD, ttl=1)
    await twin.ask("lookup", NAME)
    twin.clock.advance(1.01)
    with deadline(0):
        assert (await twin.ask("lookup", NAME)).source == "stale"
    assert (await twin.ask("lookup", NAME)).source == "network"  # nobody was taken to be asking


@both
async def test_silent_servers_are_asked_for_each_family_once(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
    for module in ("resolver", "resolver_async", "resolver_base"):
        monkeypatch.setattr(f"datakit.dns.{module}.CLIENT_RESPONSE", 0.3)
    dns_server.set(NAME, "A", OLD, ttl=1)
    dns_server.set(NAME, "AAAA", ["2001:db8::1"], ttl=1)
    twin = Twin(kind, dns_server, timeout=5.0)
    await twin.ask("addresses", NAME, 1)
    twin.clock.advance(1.01)
    dns_server.fail("silent")
    dns_server.clear_queries()
    for _ in range(10):
        assert len(await twin.ask("addresses", NAME, 1)) == 2
        await asyncio.sleep(0.1)
    asked = [dns_server.queries_for(NAME, rdtype) for rdtype in ("A", "AAAA")]
    assert asked == [1, 1]


@both
async def test_a_name_of_one_family_alone_waits_no_longer_than_stale_data_does(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
        monkeypatch.setattr(f"{module}.CLIENT_RESPONSE", 0.3)
    dns_server.set(NAME, "AAAA", ["2001:db8::1"], ttl=1)
    dns_server.set_negative_ttl(1)
    twin = Twin(kind, dns_server)
    await twin.ask("addresses", NAME, 1)
    twin.clock.advance(1.01)
    dns_server.fail("silent")
    async with asyncio.timeout(3):  # the lookup of A alone would take 4 s
        for _ in range(5):
            assert len(await twin.ask("addresses", NAME, 1)) == 1


def test_a_lookup_that_ended_with_its_event_loop_is_made_again(dns_server: DnsServer) -> None:
    twin = Twin("async", dns_server)
    asyncio.run(twin.leave(seconds=30))
    assert asyncio.run(twin.ask("lookup", NAME)).source == "network"


def test_a_flood_of_what_is_no_answer_ends_with_the_timeout() -> None:
    stop = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))

        def flood() -> None:
            _, client = peer.recvfrom(4096)
            while not stop.is_set():
                with suppress(OSError):
                    peer.sendto(b"\0" * 64, client)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            resolver = Resolver([f"127.0.0.1:{peer.getsockname()[1]}"], timeout=0.5, deadline=0.5)
            began = time.monotonic()
            with pytest.raises(ResolveTimeoutError):
                resolver.lookup(NAME)
            assert time.monotonic() - began < 5  # it would never end
        finally:
            stop.set()
            flooding.join()


def test_flush_while_a_stale_answer_was_counted_on(dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", OLD, ttl=1)
    clock = ShiftedClock()
    resolver = Resolver([dns_server.endpoint], clock=clock)
    resolver.lookup(NAME)
    clock.advance(1.01)
    dns_server.fail("silent")
    flushing = threading.Timer(0.05, resolver.flush)
    flushing.start()
    with deadline(0.2), pytest.raises(DeadlineExceededError):
        resolver.lookup(NAME)
    flushing.join()
