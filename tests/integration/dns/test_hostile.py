"""What real servers do not do: lies, floods, circles, silence."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit import AsyncResolver, Resolver, deadline, events
from datakit.dns import Answer, Change
from datakit.dns.resolution import MAX_CHAIN
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    NameNotFoundError,
    NoDataError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.testing import DnsServer, FakeClock

from .conftest import ShiftedClock

NAME = "db.shop.internal"
both = pytest.mark.parametrize("kind", ["sync", "async"])


class Twin:
    """A resolver of either kind on a fake clock, driven from async tests."""

    def __init__(self, kind: str, servers: list[str], **options: object) -> None:
        self.clock = FakeClock()
        make = Resolver if kind == "sync" else AsyncResolver
        options = {"timeout": 0.2, "deadline": 0.5, "clock": self.clock, **options}
        self.resolver: Resolver | AsyncResolver = make(servers, **options)  # type: ignore[arg-type]

    async def lookup(self, name: str = NAME, rdtype: str = "A") -> Answer:
        if isinstance(self.resolver, Resolver):
            return await asyncio.to_thread(self.resolver.lookup, name, rdtype)
        return await self.resolver.lookup(name, rdtype)


@pytest.fixture
def second() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.set(NAME, "A", ["192.0.2.1"], ttl=10)
        yield server


@both
@pytest.mark.parametrize("lie", ["wrong_id", "wrong_question", "wrong_source"])
async def test_an_answer_to_something_else_is_not_listened_to(
    kind: str, lie: str, dns_server: DnsServer, second: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["10.6.6.6"])
    dns_server.fail(lie)  # type: ignore[arg-type]
    with pytest.raises((ResolveTimeoutError, ServerFailureError)):
        await Twin(kind, [dns_server.endpoint]).lookup()
    answer = await Twin(kind, [dns_server.endpoint, second.endpoint]).lookup()
    assert (answer.records, answer.server) == (("192.0.2.1",), second.endpoint)


@both
async def test_records_of_names_that_nothing_led_to_are_not_looked_at(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, [dns_server.endpoint])
    dns_server.set(NAME, "CNAME", ["target.internal"], ttl=60)
    dns_server.set("target.internal", "A", ["192.0.2.5"], ttl=60)
    assert (await twin.lookup()).records == ("192.0.2.5",)
    dns_server.clear_queries()
    await twin.lookup("target.internal")
    assert dns_server.queries_for("target.internal") == 1  # not taken from the other's answer


@both
async def test_circles_and_endless_chains_are_told_and_not_kept(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set("a.internal", "CNAME", ["b.internal"])
    dns_server.set("b.internal", "CNAME", ["a.internal"])
    with pytest.raises(ServerFailureError, match="circle"):
        await Twin(kind, [dns_server.endpoint]).lookup("a.internal")
    for link in range(MAX_CHAIN + 2):
        dns_server.set(f"n{link}.internal", "CNAME", [f"n{link + 1}.internal"])
    dns_server.set(f"n{MAX_CHAIN + 2}.internal", "A", ["192.0.2.1"])
    with pytest.raises(ServerFailureError, match="more than 16"):
        await Twin(kind, [dns_server.endpoint]).lookup("n0.internal")
    twin = Twin(kind, [dns_server.endpoint])
    assert len((await twin.lookup("n2.internal")).chain) == MAX_CHAIN


@both
async def test_more_records_than_any_name_needs_are_refused(
    kind: str, dns_server: DnsServer
) -> None:
    many = [f"10.{n // 250}.{n % 250}.1" for n in range(1100)]
    dns_server.set(NAME, "A", many)
    with pytest.raises(ServerFailureError, match="1100 records"):
        await Twin(kind, [dns_server.endpoint], timeout=10.0, deadline=20.0).lookup()


@both
async def test_addresses_outside_the_allowed_networks_are_dropped(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, [dns_server.endpoint], allowed_networks=["10.0.0.0/8", "fd00::/8"])
    dns_server.set(NAME, "A", ["10.0.0.1", "192.168.0.1"])
    assert (await twin.lookup()).records == ("10.0.0.1",)
    dns_server.set("rebound.internal", "A", ["127.0.0.1"])
    with pytest.raises(ServerFailureError, match=r"outside allowed_networks: 127\.0\.0\.1"):
        await twin.lookup("rebound.internal")
    dns_server.set("text.internal", "TXT", ["x"])
    assert (await twin.lookup("text.internal", "TXT")).records == ('"x"',)


@both
async def test_a_server_that_knows_no_edns_is_asked_without(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.fail("no_edns")
    assert (await Twin(kind, [dns_server.endpoint]).lookup()).records == ("192.0.2.1",)
    assert dns_server.queries_for(NAME) == 2


@both
async def test_a_dead_server_is_asked_last_from_then_on(
    kind: str, dns_server: DnsServer, second: DnsServer
) -> None:
    dns_server.fail("silent")
    twin = Twin(kind, [dns_server.endpoint, second.endpoint], timeout=1.0, deadline=3.0)
    assert (await twin.lookup()).server == second.endpoint
    dns_server.clear_queries()
    second.set("other.internal", "A", ["192.0.2.2"])
    await twin.lookup("other.internal")
    assert dns_server.queries == []
    dns_server.heal()
    twin.clock.advance(1.0)
    dns_server.set("third.internal", "A", ["192.0.2.3"])
    assert (await twin.lookup("third.internal")).server == dns_server.endpoint


@both
async def test_failures_are_held_for_a_second_and_longer_each_time(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, [dns_server.endpoint])
    dns_server.fail("servfail")
    for hold in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        dns_server.clear_queries()
        for _ in range(3):
            with pytest.raises(ServerFailureError, match="answered SERVFAIL"):
                await twin.lookup()
        asked = dns_server.queries_for(NAME)
        assert asked == 2  # the attempts of one lookup
        twin.clock.advance(hold - 0.01)
        with pytest.raises(ServerFailureError):
            await twin.lookup()
        assert dns_server.queries_for(NAME) == asked
        twin.clock.advance(0.01)
    dns_server.heal()
    dns_server.set(NAME, "A", ["192.0.2.1"])
    assert (await twin.lookup()).records == ("192.0.2.1",)


@both
async def test_a_caller_in_a_hurry_harms_nobody_else(kind: str, dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.fail("late", seconds=0.15)
    twin = Twin(kind, [dns_server.endpoint], timeout=1.0, deadline=2.0)
    with deadline(0.05), pytest.raises(DeadlineExceededError):
        await twin.lookup()
    assert (await twin.lookup()).records == ("192.0.2.1",)
    assert twin.resolver.stats().failures <= 1


@both
@pytest.mark.parametrize("failure", ["servfail", "silent"])
async def test_a_deadline_that_is_not_over_hides_no_failure_and_no_hold(
    kind: str, failure: str, dns_server: DnsServer
) -> None:
    dns_server.fail(failure)  # type: ignore[arg-type]
    twin = Twin(kind, [dns_server.endpoint], clock=ShiftedClock())
    with deadline(4.0):
        for _ in range(5):
            with pytest.raises((ServerFailureError, ResolveTimeoutError)):
                await twin.lookup()
    assert dns_server.queries_for(NAME) == 2


@both
async def test_a_stale_answer_leaves_half_of_the_time_for_using_it(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=1)
    twin = Twin(kind, [dns_server.endpoint], clock=ShiftedClock(), timeout=2.0, deadline=5.0)
    await twin.lookup()
    twin.resolver._clock.advance(1.0)  # type: ignore[attr-defined]
    dns_server.fail("silent")
    with deadline(1.0):
        assert (await twin.lookup()).source == "stale"
        left = deadline.remaining()
        assert left is not None
        assert left > 0.2
        dns_server.clear_queries()
        assert (await twin.lookup()).source == "stale"
    assert dns_server.queries == []


@both
async def test_a_family_whose_answers_are_lost_holds_nobody_up(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 only, and the queries for AAAA vanish; then all servers do."""
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=1)
    dns_server.set_negative_ttl(1)
    make = Resolver if kind == "sync" else AsyncResolver
    resolver = make([dns_server.endpoint])

    async def addresses() -> list[str]:
        found = resolver.addresses(NAME, 1)
        return [a.ip for a in (await found if asyncio.iscoroutine(found) else found)]

    assert await addresses() == ["192.0.2.1"]
    await asyncio.sleep(1.1)
    dns_server.fail("silent")
    began = time.monotonic()
    for _ in range(3):
        assert await addresses() == ["192.0.2.1"]
    assert time.monotonic() - began < 4.0  # one probe of 1.8 s


@both
async def test_what_is_allowed_holds_for_every_way_to_ask(kind: str, dns_server: DnsServer) -> None:
    twin = Twin(kind, [dns_server.endpoint], allowed_networks=["10.0.0.0/8"])
    dns_server.set("evil.internal", "A", ["127.0.0.1"])
    dns_server.set("svc.internal", "HTTPS", ["1 . ipv4hint=127.0.0.1"])
    for name, rdtype in (
        ("evil.internal", "a"), ("evil.internal", "TYPE1"), ("127.0.0.1", "A"),
        ("localhost", "A"), ("svc.internal", "HTTPS"),
    ):  # fmt: skip
        with pytest.raises(ServerFailureError, match="outside allowed_networks"):
            await twin.lookup(name, rdtype)


@both
async def test_a_watcher_of_a_name_that_is_known_hears_its_first_move(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    twin, changes = Twin(kind, [dns_server.endpoint]), list[Change]()
    await twin.lookup()
    twin.resolver.watch(f"{NAME}.", changes.append)
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=10)
    twin.clock.advance(10)
    await twin.lookup()
    assert [change.after for change in changes] == [frozenset({"192.0.2.2"})]
    with pytest.raises(ConfigError, match="callback"):
        twin.resolver.watch(NAME, twin.lookup)  # type: ignore[arg-type]


@both
async def test_a_popular_name_is_asked_again_before_its_ttl_ends_by_one_caller(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=100)
    twin = Twin(kind, [dns_server.endpoint])
    await twin.lookup()
    twin.clock.advance(91.0)
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=100)
    dns_server.fail("late", seconds=0.1)
    first = asyncio.create_task(twin.lookup())
    while dns_server.queries_for(NAME) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    others = await asyncio.gather(*(twin.lookup() for _ in range(20)))
    assert {answer.source for answer in others} == {"cache"}  # nobody else waits
    assert (await first).records == ("192.0.2.2",)
    assert dns_server.queries_for(NAME) == 2


@both
async def test_a_refresh_ahead_that_fails_leaves_the_answer(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=100)
    twin = Twin(kind, [dns_server.endpoint])
    await twin.lookup()
    twin.clock.advance(91.0)
    dns_server.fail("servfail")
    answers = [await twin.lookup() for _ in range(5)]
    assert {(answer.records, answer.source) for answer in answers} == {(("192.0.2.1",), "cache")}
    assert dns_server.queries_for(NAME) == 1 + 2


@both
async def test_watchers_hear_of_changes_and_of_nothing_else(
    kind: str, dns_server: DnsServer
) -> None:
    twin, changes = Twin(kind, [dns_server.endpoint]), list[Change]()

    def broken(_: Change) -> None:
        raise RuntimeError("a bug of the application")

    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    twin.resolver.watch(NAME, broken)
    end = twin.resolver.watch(NAME.upper(), changes.append)
    await twin.lookup()
    twin.clock.advance(10)
    await twin.lookup()
    assert changes == []
    dns_server.set(NAME, "A", ["192.0.2.2", "192.0.2.3"], ttl=10)
    twin.clock.advance(10)
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    await twin.lookup()
    unsubscribe()
    before, after = frozenset({"192.0.2.1"}), frozenset({"192.0.2.2", "192.0.2.3"})
    assert changes == [Change(NAME, "A", before, after)]
    assert events.AddressesChanged(NAME, "A", tuple(sorted(after))) in seen
    dns_server.remove(NAME)
    twin.clock.advance(10)
    with pytest.raises(NameNotFoundError):
        await twin.lookup()
    assert changes[1:] == [Change(NAME, "A", after, frozenset())]
    end()
    dns_server.set(NAME, "A", ["192.0.2.4"], ttl=10)
    twin.clock.advance(10)
    await twin.lookup()
    assert len(changes) == 2


@both
async def test_a_watcher_that_asks_for_it_hears_without_anybodys_lookup(
    kind: str, dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=1)
    make = Resolver if kind == "sync" else AsyncResolver
    resolver, heard = make([dns_server.endpoint]), asyncio.Event()
    loop, changes = asyncio.get_running_loop(), list[Change]()

    def hear(change: Change) -> None:
        changes.append(change)
        loop.call_soon_threadsafe(heard.set)

    end = resolver.watch(NAME, hear, every=0.05)
    while not dns_server.queries_for(NAME, "A"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    dns_server.set(NAME, "A", ["192.0.2.2"], ttl=1)
    async with asyncio.timeout(10):
        await heard.wait()
    end()
    assert changes[0].after == frozenset({"192.0.2.2"})
    await asyncio.sleep(0.2)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert "datakit-dns-watch" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConfigError, match="every"):
        resolver.watch(NAME, hear, every=0)


@both
async def test_refresh_asks_no_server_for_what_no_server_knows(
    kind: str, dns_server: DnsServer
) -> None:
    twin = Twin(kind, [dns_server.endpoint])
    for name in ("localhost", "192.0.2.1"):
        found = twin.resolver.refresh(name)
        assert (await found if asyncio.iscoroutine(found) else found).records
    assert dns_server.queries == []


@both
async def test_stats_count_what_happened(kind: str, dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    twin = Twin(kind, [dns_server.endpoint])
    for _ in range(3):
        await twin.lookup()
    dns_server.fail("servfail")
    twin.clock.advance(10)
    await twin.lookup()
    with pytest.raises(ServerFailureError):
        await twin.lookup("other.internal")
    stats = twin.resolver.stats()
    assert (stats.hits, stats.misses, stats.stale, stats.failures) == (2, 3, 1, 1)
    server = stats.servers[dns_server.endpoint]
    assert (stats.queries, server.queries, server.failures) == (5, 5, 4)


def test_with_all_servers_dead_stale_answers_come_quickly_and_one_probe_is_in_flight() -> None:
    """200 lookups a second by 4 threads, for 60 seconds of a shifted clock."""
    clock, slowest, wrong = ShiftedClock(), 0.0, list[Answer]()

    def caller(lookups: int) -> float:
        slowest = 0.0
        for _ in range(lookups):
            began = time.monotonic()
            answer = resolver.lookup(NAME)
            slowest = max(slowest, time.monotonic() - began)
            if (answer.records, answer.source) != (("192.0.2.1",), "stale"):
                wrong.append(answer)
            clock.advance(0.005)
        return slowest

    with DnsServer() as server, ThreadPoolExecutor(4) as pool:
        server.set(NAME, "A", ["192.0.2.1"], ttl=5)
        resolver = Resolver([server.endpoint], clock=clock)
        resolver.lookup(NAME)
        clock.advance(5.0)
        server.fail("silent")
        server.clear_queries()
        slowest = max(pool.map(caller, [60 * 200 // 4] * 4))
        asked = server.queries_for(NAME)
    assert wrong == []
    assert slowest < 4.0  # a probe of 1.8 s, not the deadline of 5 s
    assert asked <= 1 + 66 // 30  # one for each 30 s, the probes' own time included


class FreezingClock(FakeClock):
    """Stands 10 s ahead from the `after`th look at it on, as in a process that was frozen."""

    after = -1

    def monotonic(self) -> float:
        self.after -= 1
        if self.after == 0:
            self.advance(10.0)
        return super().monotonic()


@both
@pytest.mark.parametrize("after", range(1, 15))
async def test_a_process_frozen_within_a_lookup_has_its_stale_answer(
    kind: str, dns_server: DnsServer, after: int
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    clock = FreezingClock()
    twin = Twin(kind, [dns_server.endpoint], clock=clock)
    await twin.lookup()
    clock.advance(11)
    dns_server.fail("servfail")
    clock.after = after
    assert (await twin.lookup()).source == "stale"


@settings(max_examples=30, deadline=None)
@given(ttls=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5))
def test_the_lowest_ttl_of_a_chain_counts(ttls: list[int]) -> None:
    server = SHARED.server
    *aliases, last = ttls
    for link, ttl in enumerate(aliases):
        server.set(f"n{link}.internal", "CNAME", [f"n{link + 1}.internal"], ttl=ttl)
    server.set(f"n{len(aliases)}.internal", "A", ["192.0.2.1"], ttl=last)
    clock = FakeClock()
    answer = Resolver([server.endpoint], clock=clock, max_ttl=2**31).lookup("n0.internal")
    assert answer.ttl == min(ttls)
    assert len(answer.chain) == len(aliases)


class SHARED:
    """A server for all examples of one test."""

    server: DnsServer


@pytest.fixture(autouse=True, scope="module")
def shared_server() -> Iterator[None]:
    with DnsServer() as SHARED.server:
        yield


@both
async def test_names_in_any_case_and_no_data(kind: str, dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=10)
    twin = Twin(kind, [dns_server.endpoint])
    await twin.lookup(NAME.upper())
    await twin.lookup(NAME)
    assert dns_server.queries_for(NAME) == 1
    with pytest.raises(NoDataError):
        await twin.lookup(NAME, "AAAA")
