import socket
import time
from threading import active_count

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from datakit.errors import ConfigError
from datakit.testing import DnsServer

NAME = "db.shop.internal"


def ask(
    server: DnsServer, name: str = NAME, rdtype: str = "A", *, tcp: bool = False, wait: float = 5.0
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=True)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, server.address, timeout=wait, port=server.port)


def records(response: dns.message.Message) -> list[str]:
    return [f"{rrset.ttl} {record}" for rrset in response.answer for record in rrset]


@pytest.fixture
def server(dns_server: DnsServer) -> DnsServer:
    dns_server.set(NAME, "A", ["127.0.0.2"], ttl=2)
    return dns_server


@pytest.mark.parametrize("tcp", [False, True])
def test_records_change_while_it_runs(server: DnsServer, tcp: bool) -> None:
    """An answer holds the records of this moment with their whole TTL."""
    response = ask(server, tcp=tcp)
    assert (records(response), response.rcode()) == (["2 127.0.0.2"], dns.rcode.NOERROR)
    assert response.flags & dns.flags.AA
    server.set(NAME, "A", ["127.0.0.3", "127.0.0.4"], ttl=7)
    both = records(ask(server, "DB.shop.INTERNAL.", tcp=tcp))
    assert sorted(both) == ["7 127.0.0.3", "7 127.0.0.4"]
    server.remove(NAME)
    assert ask(server, tcp=tcp).rcode() == dns.rcode.NXDOMAIN


def test_no_data_is_not_no_name(server: DnsServer) -> None:
    """Another type of a name and a name between are NODATA, an unknown one NXDOMAIN; with SOA."""
    server.set_negative_ttl(9, minimum=3)
    for name, rdtype, rcode in [
        (NAME, "AAAA", dns.rcode.NOERROR),
        ("shop.internal", "A", dns.rcode.NOERROR),
        ("nothing.internal", "A", dns.rcode.NXDOMAIN),
    ]:
        response = ask(server, name, rdtype)
        (soa,) = response.authority
        assert (response.rcode(), response.answer) == (rcode, [])
        assert (soa.rdtype, soa.ttl) == (dns.rdatatype.SOA, 9)
        assert str(soa[0]).endswith(" 3")


def test_aliases_are_followed(server: DnsServer) -> None:
    """The answer holds the whole chain; its end gives the code; a loop ends."""
    server.set("www.internal", "CNAME", ["writer.internal"], ttl=5)
    server.set("writer.internal", "CNAME", [NAME], ttl=4)
    assert records(ask(server, "www.internal")) == [
        "5 writer.internal.", f"4 {NAME}.", "2 127.0.0.2",
    ]  # fmt: skip
    assert records(ask(server, "www.internal", "CNAME")) == ["5 writer.internal."]
    server.remove(NAME)
    dangling = ask(server, "www.internal")
    assert (len(dangling.answer), dangling.rcode()) == (2, dns.rcode.NXDOMAIN)
    server.set("writer.internal", "CNAME", ["www.internal"])
    assert len(ask(server, "www.internal").answer) == 2


def test_alias_and_records_replace_each_other(server: DnsServer) -> None:
    """A name changes from address to alias and back in one step."""
    server.set(NAME, "CNAME", ["elsewhere.internal"])
    assert len(ask(server, rdtype="ANY").answer) == 1
    server.set(NAME, "A", ["127.0.0.5"], ttl=1)
    assert records(ask(server)) == ["1 127.0.0.5"]


def test_names_outside_the_zone_are_refused() -> None:
    """A server of one zone refuses others' names, and to hold them."""
    with DnsServer(zone="internal") as server:
        assert ask(server, "example.com").rcode() == dns.rcode.REFUSED
        with pytest.raises(ConfigError, match="not in the zone"):
            server.set("example.com", "A", ["127.0.0.1"])
        server.set("alias.internal", "CNAME", ["example.com"])
        assert ask(server, "alias.internal").rcode() == dns.rcode.NOERROR


def test_large_answers_need_tcp(server: DnsServer) -> None:
    """An answer beyond the datagram is truncated over UDP and whole over TCP."""
    server.set("big.internal", "TXT", [f'"{n:0200}"' for n in range(20)])
    assert ask(server, "big.internal", "TXT").flags & dns.flags.TC
    assert len(records(ask(server, "big.internal", "TXT", tcp=True))) == 20


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("failure", ["servfail", "refused", "nxdomain"])
def test_failing_codes(server: DnsServer, failure: str, tcp: bool) -> None:
    """The code asked for comes over both transports, until the heal."""
    server.fail(failure)  # type: ignore[arg-type]  # pyright: ignore
    response = ask(server, tcp=tcp)
    assert dns.rcode.to_text(response.rcode()).lower() == failure
    assert (response.answer, len(response.authority)) == ([], int(failure == "nxdomain"))
    server.heal()
    assert records(ask(server, tcp=tcp)) == ["2 127.0.0.2"]


def test_truncated_sends_the_client_to_tcp(server: DnsServer) -> None:
    """UDP says TC and nothing else; TCP says all."""
    server.fail("truncated")
    response = ask(server)
    assert (bool(response.flags & dns.flags.TC), response.answer) == (True, [])
    assert records(ask(server, tcp=True)) == ["2 127.0.0.2"]


@pytest.mark.parametrize("tcp", [False, True])
def test_silence_and_lateness(server: DnsServer, tcp: bool) -> None:
    """A silent server never answers, a late one does in the end."""
    server.fail("silent")
    with pytest.raises(dns.exception.Timeout):
        ask(server, tcp=tcp, wait=0.2)
    server.fail("late", seconds=0.4)
    with pytest.raises(dns.exception.Timeout):
        ask(server, tcp=tcp, wait=0.1)
    assert records(ask(server, tcp=tcp)) == ["2 127.0.0.2"]


@pytest.mark.parametrize("tcp", [False, True])
def test_wrong_id_is_no_answer(server: DnsServer, tcp: bool) -> None:
    """An answer under another id is rejected by a careful client."""
    server.fail("wrong_id")
    with pytest.raises(dns.query.BadResponse):
        ask(server, tcp=tcp)


def test_one_name_fails_alone(server: DnsServer) -> None:
    """A failure of a name leaves the others, and goes before the failure of all."""
    server.set("ok.internal", "A", ["127.0.0.9"])
    server.fail("servfail", name=NAME)
    assert ask(server).rcode() == dns.rcode.SERVFAIL
    assert ask(server, "ok.internal").rcode() == dns.rcode.NOERROR
    server.fail("refused")
    assert [ask(server, n).rcode() for n in (NAME, "ok.internal")] == [
        dns.rcode.SERVFAIL, dns.rcode.REFUSED,
    ]  # fmt: skip
    server.heal(NAME)
    assert ask(server).rcode() == dns.rcode.REFUSED


def test_queries_are_counted(server: DnsServer) -> None:
    """Every query is seen under its plain name."""
    ask(server, "DB.Shop.internal.")
    ask(server, rdtype="AAAA", tcp=True)
    assert server.queries == [(NAME, "A"), (NAME, "AAAA")]
    assert (server.queries_for(NAME), server.queries_for(f"{NAME}.", "aaaa")) == (2, 1)
    server.clear_queries()
    assert server.queries == []


def test_garbage_is_survived(server: DnsServer) -> None:
    """Packets that are no queries get no answer and harm nobody."""
    header_only = bytes(12)
    for wire in (b"", b"\0", b"\xff" * 40, header_only, b"GET / HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(wire, (server.address, server.port))
        with socket.create_connection((server.address, server.port)) as s:
            s.sendall(len(wire).to_bytes(2, "big") + wire)
    assert records(ask(server)) == ["2 127.0.0.2"]
    assert records(ask(server, tcp=True)) == ["2 127.0.0.2"]


def test_stream_carries_several_queries(server: DnsServer) -> None:
    """A TCP connection serves one query after the other."""
    with socket.create_connection((server.address, server.port), 5.0) as s:
        for rdtype in ("A", "AAAA"):
            query = dns.message.make_query(NAME, rdtype)
            dns.query.send_tcp(s, query, time.time() + 5.0)
            assert dns.query.receive_tcp(s, time.time() + 5.0)[0].id == query.id


def test_close_ends_everything() -> None:
    """No thread and no port is left, open streams and late answers included; it can start again."""
    threads = active_count()
    server = DnsServer()
    assert active_count() == threads
    with server, socket.create_connection((server.address, server.port)) as s:
        server.fail("late", seconds=60)
        query = dns.message.make_query(NAME, "A")
        dns.query.send_tcp(s, query)
        with pytest.raises(dns.exception.Timeout):
            ask(server, wait=0.1)
        server.close()
        assert active_count() == threads
        with pytest.raises(OSError):
            socket.create_connection((server.address, server.port))
        server.heal()
        server.start()
        assert ask(server).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "rdtype", "record"),
    [("a..b", "A", "127.0.0.1"), ("a", "NOPE", "x"), ("a", "A", "not an address")],
)
def test_unreadable_records_are_refused(name: str, rdtype: str, record: str) -> None:
    """A typing mistake is found when it is made."""
    with pytest.raises(ConfigError):
        DnsServer().set(name, rdtype, [record])


def test_unknown_failures_are_refused() -> None:
    """A failure that is none, and seconds where they mean nothing."""
    server = DnsServer()
    with pytest.raises(ConfigError, match="one of servfail"):
        server.fail("broken")  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(ConfigError, match="seconds"):
        server.fail("late")
    with pytest.raises(ConfigError, match="seconds"):
        server.fail("silent", seconds=1)
