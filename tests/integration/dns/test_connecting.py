"""Connecting by name: the addresses raced, failures reported, the name kept for TLS."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from datakit import AsyncResolver, Resolver, deadline
from datakit.dns import patch
from datakit.errors import ConfigError, DeadlineExceededError, NameNotFoundError
from datakit.testing import DnsServer

NAME = "db.shop.internal"
both = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP listener on 127.0.0.1; no other loopback address listens on its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


@pytest.fixture
def black_hole(listener: socket.socket) -> Iterator[str]:
    """An address whose backlog is full, so that nothing answers there."""
    port = listener.getsockname()[1]
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.77", port))
        server.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.77", port))
        time.sleep(0.05)
        yield "127.0.0.77"
        for sock in fill:
            sock.close()


class Twin:
    def __init__(self, kind: str, server: DnsServer) -> None:
        make = Resolver if kind == "sync" else AsyncResolver
        self.resolver: Resolver | AsyncResolver = make([server.endpoint])

    async def connect(self, port: int, name: str = NAME, **options: float) -> socket.socket:
        if isinstance(self.resolver, Resolver):
            with deadline(deadline.remaining() or 60.0):
                return await asyncio.to_thread(self.resolver.connect, name, port, **options)
        return await self.resolver.connect(name, port, **options)

    async def addresses(self, name: str = NAME) -> list[str]:
        if isinstance(self.resolver, Resolver):
            found = await asyncio.to_thread(self.resolver.addresses, name, 1)
        else:
            found = await self.resolver.addresses(name, 1)
        return [address.ip for address in found]


@both
async def test_the_socket_is_connected_to_an_address_of_the_name(
    kind: str, dns_server: DnsServer, listener: socket.socket
) -> None:
    dns_server.set(NAME, "A", ["127.0.0.1"])
    host, port = listener.getsockname()
    with closing(await Twin(kind, dns_server).connect(port)) as sock:
        assert sock.getpeername() == (host, port)
        assert (sock.gettimeout() is None) == (kind == "sync")


@both
async def test_an_address_that_refuses_is_passed_over_reported_and_tried_last(
    kind: str, dns_server: DnsServer, listener: socket.socket
) -> None:
    refusing = [f"127.0.0.{n}" for n in range(51, 58)]
    dns_server.set(NAME, "A", ["127.0.0.1", *refusing])
    twin = Twin(kind, dns_server)
    port = listener.getsockname()[1]
    for _ in range(20):
        (await twin.connect(port)).close()
    unhealthy = set(twin.resolver._unhealthy.keys())
    assert unhealthy
    assert unhealthy <= set(refusing)
    order = await twin.addresses()
    assert set(order[-len(unhealthy) :]) == unhealthy


@both
async def test_an_address_that_does_not_answer_is_raced_by_the_next(
    kind: str, dns_server: DnsServer, listener: socket.socket, black_hole: str
) -> None:
    dns_server.set(NAME, "A", [black_hole, "127.0.0.1"])
    twin = Twin(kind, dns_server)
    port = listener.getsockname()[1]
    for _ in range(6):
        with closing(await twin.connect(port)) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"


@both
async def test_when_nobody_answers_the_deadline_ends_it_and_the_silent_are_reported(
    kind: str, dns_server: DnsServer, listener: socket.socket, black_hole: str
) -> None:
    dns_server.set(NAME, "A", [black_hole])
    twin = Twin(kind, dns_server)
    with pytest.raises(DeadlineExceededError, match=f"no answer from {black_hole}"):
        await twin.connect(listener.getsockname()[1], timeout=0.4)
    assert black_hole in twin.resolver._unhealthy


@both
async def test_when_all_refuse_each_is_told(kind: str, dns_server: DnsServer) -> None:
    dns_server.set(NAME, "A", ["127.0.0.51", "127.0.0.52"])
    with pytest.raises(ConnectionRefusedError) as caught:
        await Twin(kind, dns_server).connect(1)
    assert "127.0.0.51 port 1" in str(caught.value)
    assert "127.0.0.52 port 1" in str(caught.value)


@both
async def test_both_families_are_asked_for_at_once(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
        monkeypatch.setattr(f"{module}.RESOLUTION_DELAY", 5.0)  # the machine may be busy
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.set(NAME, "AAAA", ["2001:db8::1"])
    dns_server.fail("silent")
    asked = asyncio.create_task(Twin(kind, dns_server).addresses())
    while len(dns_server.queries) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert {rdtype for _, rdtype in dns_server.queries[:2]} == {"A", "AAAA"}  # none was answered
    dns_server.heal()
    assert await asked == ["2001:db8::1", "192.0.2.1"]


@both
async def test_a_family_given_up_on_keeps_its_last_known_addresses(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
    dns_server.set(NAME, "A", ["192.0.2.1"], ttl=1)
    dns_server.set(NAME, "AAAA", ["2001:db8::1"], ttl=1)
    twin = Twin(kind, dns_server)
    known = ["2001:db8::1", "192.0.2.1"]
    assert await twin.addresses() == known
    await asyncio.sleep(1.1)
    dns_server.fail("silent")
    for _ in range(3):
        assert await twin.addresses() == known


@both
async def test_a_family_that_is_late_once_is_there_later(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query that was not waited for is the one that is answered."""
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
    dns_server.set(NAME, "A", ["192.0.2.1"])
    dns_server.set(NAME, "AAAA", ["2001:db8::1"])
    twin = Twin(kind, dns_server)
    found = twin.resolver.lookup(NAME, "A")
    assert (await found if asyncio.iscoroutine(found) else found) is not None
    dns_server.fail("late", seconds=0.3)
    assert await twin.addresses() == ["192.0.2.1"]
    await asyncio.sleep(0.5)
    assert await twin.addresses() == ["2001:db8::1", "192.0.2.1"]
    assert dns_server.queries_for(NAME, "AAAA") == 1


@both
async def test_one_familys_absence_or_failure_leaves_the_other(
    kind: str, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
    dns_server.set("four.internal", "A", ["192.0.2.1"])
    dns_server.set("six.internal", "AAAA", ["2001:db8::1"])
    twin = Twin(kind, dns_server)
    for _ in range(2):  # from the servers, then from the cache
        assert await twin.addresses("four.internal") == ["192.0.2.1"]
        assert await twin.addresses("six.internal") == ["2001:db8::1"]
        with pytest.raises(NameNotFoundError):
            await twin.addresses("nobody.internal")
    assert len(dns_server.queries) == 6


@both
async def test_a_name_that_is_not_there(kind: str, dns_server: DnsServer) -> None:
    with pytest.raises(NameNotFoundError):
        await Twin(kind, dns_server).connect(1, "nobody.internal")


@both
async def test_an_address_is_connected_to_without_asking(
    kind: str, dns_server: DnsServer, listener: socket.socket
) -> None:
    host, port = listener.getsockname()
    (await Twin(kind, dns_server).connect(port, host)).close()
    assert dns_server.queries == []


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_connect_leaves_no_socket_behind(
    steps: int, dns_server: DnsServer, listener: socket.socket, black_hole: str
) -> None:
    dns_server.set(NAME, "A", [black_hole])
    twin = Twin("async", dns_server)
    task = asyncio.create_task(twin.connect(listener.getsockname()[1]))
    for _ in range(steps):
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):  # what it waited for is cancelled too, a few turns later
        while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def infos(*args: object, **kwargs: object) -> set[tuple[object, ...]]:
    return {tuple(info) for info in socket.getaddrinfo(*args, **kwargs)}  # type: ignore[arg-type]


def test_getaddrinfo_finds_names_through_the_resolver_and_is_put_back(
    dns_server: DnsServer,
) -> None:
    dns_server.set(NAME, "CNAME", ["node.internal"])
    dns_server.set("node.internal", "A", ["192.0.2.1", "192.0.2.2"])
    dns_server.set("six.internal", "AAAA", ["2001:db8::1"])
    system = socket.getaddrinfo
    with patch(Resolver([dns_server.endpoint])):
        found = infos(NAME, "https", type=socket.SOCK_STREAM)
        assert found == {
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, 443))
            for ip in ("192.0.2.1", "192.0.2.2")
        }
        assert len(infos(NAME, 80)) == 6  # stream, datagram and raw for each
        assert infos(b"db.shop.internal", 80) == infos(NAME, 80)
        named = socket.getaddrinfo(NAME, 80, flags=socket.AI_CANONNAME)
        assert named[0][3] == "node.internal"
        six = infos("six.internal", 80, socket.AF_INET6, socket.SOCK_STREAM)
        assert {info[4] for info in six} == {("2001:db8::1", 80, 0, 0)}
        mapped = socket.AI_V4MAPPED
        over = infos(NAME, 80, socket.AF_INET6, socket.SOCK_STREAM, flags=mapped)
        assert {info[4][0] for info in over} == {"::ffff:192.0.2.1", "::ffff:192.0.2.2"}  # type: ignore[index]
        for same in [("127.0.0.1", 80), ("::1", 80), (None, 80), ("localhost", 80)]:
            assert infos(*same, type=socket.SOCK_STREAM) >= {
                tuple(info)
                for info in system(*same, type=socket.SOCK_STREAM)
                if info[0] == socket.AF_INET
            }
    assert socket.getaddrinfo is system


def test_patches_may_end_in_any_order(
    dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns_server.set(NAME, "A", ["192.0.2.1"])
    system = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", system)  # to be there again after this test
    with DnsServer() as other:
        other.set(NAME, "A", ["192.0.2.2"])
        first, second = (patch(Resolver([server.endpoint])) for server in (dns_server, other))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert {info[4] for info in infos(NAME, 80)} == {("192.0.2.2", 80)}
        second.__exit__(None, None, None)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(NAME, 80)
    assert infos("127.0.0.1", 80) == {tuple(info) for info in system("127.0.0.1", 80)}


@pytest.mark.parametrize(
    ("name", "family", "code"),
    [
        ("nobody.internal", 0, socket.EAI_NONAME),
        ("four.internal", socket.AF_INET6, socket.EAI_NODATA),
        ("broken.internal", 0, socket.EAI_AGAIN),
        ("a" * 64 + ".internal", 0, socket.EAI_NONAME),
    ],
)
def test_getaddrinfos_errors_are_those_of_the_system(
    dns_server: DnsServer, name: str, family: int, code: int
) -> None:
    dns_server.set("four.internal", "A", ["192.0.2.1"])
    dns_server.fail("servfail", name="broken.internal")
    with patch(Resolver([dns_server.endpoint])), pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(name, 80, family)
    assert caught.value.errno == code


async def test_asyncio_and_plain_clients_follow_a_patch(
    dns_server: DnsServer, listener: socket.socket
) -> None:
    dns_server.set(NAME, "A", ["127.0.0.1"])
    port = listener.getsockname()[1]
    with patch(Resolver([dns_server.endpoint])):
        _, writer = await asyncio.open_connection(NAME, port)
        writer.close()
        await writer.wait_closed()
        (await asyncio.to_thread(socket.create_connection, (NAME, port))).close()


def test_a_patch_needs_a_resolver_for_threads() -> None:
    with pytest.raises(ConfigError, match="needs a datakit Resolver"), patch(AsyncResolver()):  # type: ignore[arg-type]
        pass
