"""Both resolvers against a DNS server that answers, changes, fails and falls silent."""

import asyncio
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from datakit import AsyncResolver, Resolver, deadline, events
from datakit.dns import Address, Answer
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    NameNotFoundError,
    NoDataError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.testing import DnsServer, FakeClock

NAME = "db.shop.internal"


class Names:
    """A resolver of either kind, driven from async tests."""

    def __init__(self, kind: str, server: DnsServer) -> None:
        self.clock = FakeClock()
        make = Resolver if kind == "sync" else AsyncResolver
        self.resolver: Resolver | AsyncResolver = make(
            [server.endpoint], clock=self.clock, timeout=0.2, deadline=0.4
        )

    async def lookup(self, name: str = NAME, rdtype: str = "A") -> Answer:
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(self.resolver.lookup, name, rdtype)
        return await self.resolver.lookup(name, rdtype)

    async def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(self.resolver.addresses, name, port)
        return await self.resolver.addresses(name, port)

    async def is_current(self, name: str, ip: str) -> bool:
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(self.resolver.is_current, name, ip)
        return await self.resolver.is_current(name, ip)

    async def refresh(self, name: str) -> Answer:
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(self.resolver.refresh, name)
        return await self.resolver.refresh(name)


@pytest.fixture(params=["sync", "async"])
async def names(request: pytest.FixtureRequest, dns_server: DnsServer) -> Names:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    return Names(str(request.param), dns_server)


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    found: list[events.Event] = []
    unsubscribe = events.subscribe(found.append)
    yield found
    unsubscribe()


async def test_an_answer_is_used_until_its_ttl_ends(names: Names, dns_server: DnsServer) -> None:
    first = await names.lookup()
    assert (first.records, first.source, first.server) == (
        ("192.0.2.1",), "network", dns_server.endpoint,
    )  # fmt: skip
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    names.clock.advance(8.9)
    again = await names.lookup()
    assert (again.records, again.source) == (("192.0.2.1",), "cache")
    assert again.ttl == pytest.approx(1.1)
    names.clock.advance(1.1)
    assert (await names.lookup()).records == ("192.0.2.2",)
    assert dns_server.queries_for(NAME) == 2


async def test_a_process_that_was_frozen_asks_again(names: Names, dns_server: DnsServer) -> None:
    await names.lookup()
    names.clock.advance_wall(11)
    assert (await names.lookup()).source == "network"


async def test_the_lowest_ttl_of_the_chain_counts(names: Names, dns_server: DnsServer) -> None:
    dns_server.set("www.internal", "CNAME", ["a.internal."], ttl=3)
    dns_server.set("a.internal", "CNAME", ["b.internal."], ttl=60)
    dns_server.set("b.internal", "A", ["192.0.2.7"], ttl=30)
    answer = await names.lookup("www.internal")
    assert answer.records == ("192.0.2.7",)
    assert answer.chain == ("a.internal", "b.internal")
    assert answer.ttl == pytest.approx(3)


async def test_a_ttl_of_zero_is_never_kept(names: Names, dns_server: DnsServer) -> None:
    dns_server.set("zero.internal", "A", ["192.0.2.1"], ttl=0)
    for _ in range(3):
        assert (await names.lookup("zero.internal")).source == "network"


async def test_a_name_that_does_not_exist_is_remembered_for_seconds(
    names: Names, dns_server: DnsServer
) -> None:
    dns_server.set_negative_ttl(600)
    for _ in range(3):
        with pytest.raises(NameNotFoundError, match=r"nothing\.internal does not exist"):
            await names.lookup("nothing.internal")
    assert dns_server.queries_for("nothing.internal") == 1
    dns_server.set("nothing.internal", "A", ["192.0.2.3"])
    names.clock.advance(5.1)
    assert (await names.lookup("nothing.internal")).records == ("192.0.2.3",)


async def test_the_soas_minimum_bounds_an_absence(names: Names, dns_server: DnsServer) -> None:
    dns_server.set_negative_ttl(600, minimum=2)
    for wait in (0, 1.9, 0.2):
        names.clock.advance(wait)
        with pytest.raises(NoDataError, match="no AAAA record"):
            await names.lookup(NAME, "AAAA")
    assert dns_server.queries_for(NAME, "AAAA") == 2


@pytest.mark.parametrize(
    ("failure", "error"), [("servfail", ServerFailureError), ("silent", ResolveTimeoutError)]
)
async def test_the_last_known_answer_outlives_its_servers(
    names: Names,
    dns_server: DnsServer,
    seen: list[events.Event],
    failure: str,
    error: type[Exception],
) -> None:
    await names.lookup()
    dns_server.fail(failure)  # type: ignore[arg-type]
    names.clock.advance(11)
    dns_server.clear_queries()
    answers = [await names.lookup() for _ in range(5)]
    assert {(answer.records, answer.source) for answer in answers} == {(("192.0.2.1",), "stale")}
    asked = dns_server.queries_for(NAME)
    await names.lookup()
    assert dns_server.queries_for(NAME) == asked
    assert any(isinstance(event, events.StaleServed) for event in seen)
    with pytest.raises(error):
        await names.lookup("unknown.internal")
    names.clock.advance(3700)
    with pytest.raises(error):
        await names.lookup()


async def test_servers_that_return_are_asked_again(names: Names, dns_server: DnsServer) -> None:
    await names.lookup()
    dns_server.fail("servfail")
    names.clock.advance(11)
    assert (await names.lookup()).source == "stale"
    dns_server.heal()
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    names.clock.advance(31)
    assert (await names.lookup()).records == ("192.0.2.2",)


async def test_a_truncated_answer_is_asked_again_over_tcp(
    names: Names, dns_server: DnsServer
) -> None:
    dns_server.set("big.internal", "A", [f"192.0.2.{i}" for i in range(200)])
    dns_server.fail("truncated")
    assert len((await names.lookup("big.internal")).records) == 200


async def test_a_failed_connection_has_the_name_asked_again(
    names: Names, dns_server: DnsServer
) -> None:
    await names.lookup()
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    names.resolver.report_failure(NAME, "192.0.2.1")
    assert (await names.lookup()).records == ("192.0.2.1",)
    names.clock.advance(0.1)
    assert (await names.lookup()).records == ("192.0.2.2",)
    for _ in range(50):
        names.resolver.report_failure(NAME, "192.0.2.2")
        await names.lookup()
    assert dns_server.queries_for(NAME) == 2


async def test_a_stale_address_that_fails_is_asked_about_every_second(
    names: Names, dns_server: DnsServer
) -> None:
    """A failover while the DNS servers are away must not be noticed half a minute late."""
    await names.lookup()
    dns_server.fail("servfail")
    names.clock.advance(11)
    assert (await names.lookup()).source == "stale"
    dns_server.heal()
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    names.resolver.report_failure(NAME, "192.0.2.1")
    assert (await names.lookup()).source == "stale"
    names.clock.advance(1)
    assert (await names.lookup()).records == ("192.0.2.2",)


async def test_silent_servers_hold_nobody_up_who_has_a_stale_answer(
    names: Names, dns_server: DnsServer
) -> None:
    patient = type(names.resolver)([dns_server.endpoint], clock=names.clock)
    names.resolver = patient
    await names.lookup()
    dns_server.fail("silent")
    names.clock.advance(11)
    async with asyncio.timeout(4):
        assert (await names.lookup()).source == "stale"


async def test_a_query_that_its_caller_left_goes_on(names: Names, dns_server: DnsServer) -> None:
    names.resolver = type(names.resolver)([dns_server.endpoint], clock=names.clock)
    await names.lookup()
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    dns_server.fail("late", seconds=0.4)
    names.clock.advance(11)
    with deadline(0.2):
        assert (await names.lookup()).source == "stale"
    assert dns_server.queries_for(NAME) == 2
    for _ in range(100):
        answer = await names.lookup()
        if answer.records == ("192.0.2.2",):
            break
        assert answer.source == "stale"
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the late answer was not taken")
    assert dns_server.queries_for(NAME) == 2
    assert (await names.lookup()).source == "cache"


async def test_a_query_that_was_left_fails_over_to_the_next_server(
    names: Names, dns_server: DnsServer
) -> None:
    with DnsServer() as other:
        other.set(NAME, "A", ["192.0.2.1"], ttl=10)
        servers = [other.endpoint, dns_server.endpoint]
        names.resolver = type(names.resolver)(servers, clock=names.clock, timeout=0.3)
        await names.lookup()
        names.clock.advance(11)
        dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
        dns_server.fail("late", seconds=0.2)
        other.fail("silent")
        with deadline(0.2):
            assert (await names.lookup()).source == "stale"
        for _ in range(100):
            answer = await names.lookup()
            if answer.records == ("192.0.2.2",):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the other server was not asked")
        assert (other.queries_for(NAME), dns_server.queries_for(NAME)) == (2, 1)


def test_an_answer_read_late_holds_no_longer_than_its_ttl(dns_server: DnsServer) -> None:
    """It lies in the socket until a lookup comes by."""
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=1)
    resolver = Resolver([dns_server.endpoint])
    resolver.lookup(NAME)
    time.sleep(1.01)
    dns_server.fail("late", seconds=0.3)
    with deadline(0.2):
        assert resolver.lookup(NAME).source == "stale"
    dns_server.heal()
    time.sleep(1.2)
    assert resolver.lookup(NAME).ttl <= 0.001
    assert dns_server.queries_for(NAME) == 2
    time.sleep(0.01)
    assert resolver.lookup(NAME).source == "network"


async def test_lookups_that_are_left_are_bounded_and_close_their_sockets(
    names: Names, dns_server: DnsServer
) -> None:
    many = [f"n{i}.internal" for i in range(120)]
    names.resolver = type(names.resolver)(
        [dns_server.endpoint], clock=names.clock, timeout=0.5, deadline=0.5
    )
    for name in many:
        dns_server.set(name, "A", ["192.0.2.1"], ttl=1)
        await names.lookup(name)
    dns_server.fail("silent")
    names.clock.advance(2)
    sockets = count_sockets()
    for name in many:
        with deadline(0.02):
            assert (await names.lookup(name)).source == "stale"
    assert count_sockets() - sockets <= 120
    if isinstance(names.resolver, Resolver):
        assert count_sockets() - sockets <= 100
        del names.resolver
    else:
        await asyncio.sleep(1.5)
    gc.collect()
    assert count_sockets() <= sockets


def count_sockets() -> int:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.parametrize("name", ["bad..host", "x" * 64 + ".internal", ""])
async def test_what_can_be_no_name_is_told_at_once(names: Names, name: str) -> None:
    with pytest.raises((ConfigError, NoDataError, NameNotFoundError)):
        await names.lookup(name)


async def test_an_unknown_type_is_told_at_once(names: Names) -> None:
    with pytest.raises(ConfigError, match="NONSENSE"):
        await names.lookup(NAME, "NONSENSE")


async def test_is_current_follows_the_record(names: Names, dns_server: DnsServer) -> None:
    assert await names.is_current(NAME, "192.0.2.1")
    assert not await names.is_current(NAME, "192.0.2.2")
    dns_server.fail("silent")
    assert await names.is_current("never.seen", "192.0.2.9")


async def test_addresses_carry_the_port_and_fall_back_to_v6(
    names: Names, dns_server: DnsServer
) -> None:
    dns_server.set("six.internal", "AAAA", ["fd00::1"])
    assert await names.addresses(NAME, 5432) == (Address("192.0.2.1", 5432),)
    assert await names.addresses("six.internal", 5432) == (Address("fd00::1", 5432),)
    assert await names.addresses("127.0.0.9", 1) == (Address("127.0.0.9", 1),)
    assert await names.addresses("::1", 1) == (Address("::1", 1),)


async def test_refresh_asks_whatever_is_stored(names: Names, dns_server: DnsServer) -> None:
    await names.lookup()
    dns_server.set(NAME, "A", ["192.0.2.2"])
    assert (await names.refresh(NAME)).records == ("192.0.2.2",)
    assert (await names.lookup()).records == ("192.0.2.2",)


async def test_flush_forgets(names: Names, dns_server: DnsServer) -> None:
    await names.lookup()
    names.resolver.flush()
    assert (await names.lookup()).source == "network"


async def test_a_deadline_that_is_over_starts_no_query(names: Names, dns_server: DnsServer) -> None:
    with deadline(0), pytest.raises(DeadlineExceededError):
        await names.lookup()
    assert dns_server.queries_for(NAME) == 0


def test_a_hundred_threads_that_miss_one_name_send_one_query(dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.fail("late", seconds=0.2)
    resolver = Resolver([dns_server.endpoint])
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(resolver.lookup, [NAME] * 100))
    assert {answer.records for answer in answers} == {("192.0.2.1",)}
    assert dns_server.queries_for(NAME) == 1


async def test_a_thousand_tasks_that_miss_one_name_send_one_query(dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.fail("late", seconds=0.2)
    resolver = AsyncResolver([dns_server.endpoint])
    answers = await asyncio.gather(*(resolver.lookup(NAME) for _ in range(1000)))
    assert {answer.records for answer in answers} == {("192.0.2.1",)}
    assert dns_server.queries_for(NAME) == 1


async def test_a_cancelled_waiter_cancels_nobody(dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.fail("late", seconds=0.3)
    resolver = AsyncResolver([dns_server.endpoint])
    first, second = (asyncio.create_task(resolver.lookup(NAME)) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    assert (await second).records == ("192.0.2.1",)
    assert first.cancelled()
    assert dns_server.queries_for(NAME) == 1
