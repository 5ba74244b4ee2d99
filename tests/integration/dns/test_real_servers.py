"""Both resolvers against knot, BIND and unbound."""

import asyncio
import os
import socket
import subprocess
import sys

import dns.message
import dns.query
import dns.rdatatype
import pytest
from tests.integration.dns.nameservers import CACHE, LEAF, ROOT, SHOP, Nameservers

from datakit import AsyncResolver, Resolver, deadline
from datakit.dns import Answer, trace, trace_async
from datakit.dns.hop import Trace
from datakit.errors import (
    DeadlineExceededError,
    NameNotFoundError,
    NoDataError,
    ServerFailureError,
)

both = pytest.mark.parametrize("kind", ["sync", "async"])


async def lookup(
    kind: str, servers: list[str], name: str, rdtype: str, **options: object
) -> Answer:
    if kind == "sync":
        return await asyncio.to_thread(Resolver(servers, **options).lookup, name, rdtype)  # type: ignore[arg-type]
    answer = await AsyncResolver(servers, **options).lookup(name, rdtype)  # type: ignore[arg-type]
    if "://" in "".join(servers):
        await asyncio.sleep(0.2)  # asyncio's TLS says farewell after it was told to close
    return answer


def oracle(nameservers: Nameservers, name: str, rdtype: str) -> set[str]:
    """Return what unbound says."""
    query = dns.message.make_query(name, rdtype)
    reply = dns.query.udp_with_fallback(query, CACHE, timeout=5, port=nameservers.port)[0]
    wanted = dns.rdatatype.from_text(rdtype)
    return {r.to_text() for rrset in reply.answer if rrset.rdtype == wanted for r in rrset}


RECORDS = [
    ("www.example.shop", "A"), ("www.example.shop", "AAAA"), ("alias.example.shop", "CNAME"),
    ("example.shop", "NS"), ("_db._tcp.example.shop", "SRV"), ("text.example.shop", "TXT"),
    ("mail.example.shop", "MX"), ("example.shop", "SOA"), ("ptr.example.shop", "PTR"),
    ("caa.example.shop", "CAA"), ("svc.example.shop", "HTTPS"), ("svcb.example.shop", "SVCB"),
    ("alias.example.shop", "A"), ("away.example.shop", "A"), ("many.example.shop", "A"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("name", "rdtype"), RECORDS)
async def test_every_type_is_read_as_unbound_reads_it(
    kind: str, nameservers: Nameservers, name: str, rdtype: str
) -> None:
    answer = await lookup(kind, [nameservers.at(CACHE)], name, rdtype)
    assert set(answer.records) == oracle(nameservers, name, rdtype)
    assert answer.records
    assert answer.server == nameservers.at(CACHE)


@both
@pytest.mark.parametrize("server", [LEAF, CACHE])
async def test_a_chain_and_its_lowest_ttl(kind: str, nameservers: Nameservers, server: str) -> None:
    answer = await lookup(kind, [nameservers.at(server)], "alias.example.shop", "A")
    assert answer.chain == ("www.example.shop",)
    assert 0 < answer.ttl <= 30  # the cache may have had it for a while


@both
async def test_absences_and_their_ttl(kind: str, nameservers: Nameservers) -> None:
    with pytest.raises(NameNotFoundError, match=r"nobody\.example\.shop does not exist"):
        await lookup(kind, [nameservers.at(LEAF)], "nobody.example.shop", "A")
    with pytest.raises(NameNotFoundError):
        await lookup(kind, [nameservers.at(LEAF)], "dangling.example.shop", "A")
    with pytest.raises(NoDataError, match="has no MX record"):
        await lookup(kind, [nameservers.at(LEAF)], "www.example.shop", "MX")


@both
async def test_what_a_server_says_beside_the_records_is_told(
    kind: str, nameservers: Nameservers
) -> None:
    """Unbound answers with a record that it may no longer be sure of, and says so."""
    server, name = nameservers.at(CACHE), "brief.example.shop"
    said: set[str] = set()
    for _ in range(20):  # one expired, one fetched anew behind it
        answer = await lookup(kind, [server], name, "A")
        assert answer.records == ("192.0.2.13",)
        said.add(answer.extended_error)
        if len(said) > 1:
            break
        await asyncio.sleep(1.1)
    assert said == {"", "EDE 3 (Stale Answer)"}


@both
async def test_a_zones_own_servers_are_asked_and_the_most_specific_wins(
    kind: str, nameservers: Nameservers
) -> None:
    zones = {"shop": ["127.0.53.98"], "example.shop.": [nameservers.at(LEAF)]}
    options = {"zones": zones, "timeout": 0.3, "deadline": 1.0}
    away = [nameservers.at(ROOT)]
    assert (await lookup(kind, away, "www.EXAMPLE.shop", "A", **options)).server == (
        nameservers.at(LEAF)
    )
    with pytest.raises(NameNotFoundError, match=LEAF):  # final: nobody else is asked
        await lookup(kind, away, "nobody.example.shop", "A", **options)


@both
async def test_a_chain_that_leaves_the_zone_is_followed_by_the_others_servers(
    kind: str, nameservers: Nameservers
) -> None:
    """The zone's server knows the target too, and is not believed about it."""
    zones = {"example.shop": [nameservers.at(LEAF)], "other": [nameservers.at(CACHE)]}
    answer = await lookup(kind, [], "away.example.shop", "A", zones=zones)
    assert (answer.records, answer.server) == (("192.0.2.20",), nameservers.at(CACHE))


@both
async def test_a_server_that_refuses_is_named_with_the_others(
    kind: str, nameservers: Nameservers
) -> None:
    servers = [nameservers.at(LEAF), "127.0.53.98"]
    with pytest.raises(ServerFailureError) as caught:
        await lookup(kind, servers, "www.elsewhere", "A", timeout=0.2, deadline=1.0)
    assert f"{servers[0]} answered REFUSED" in str(caught.value)
    assert "127.0.53.98:53" in str(caught.value)


@both
async def test_search_domains_complete_a_short_name(kind: str, nameservers: Nameservers) -> None:
    search = ["other", "example.shop"]
    answer = await lookup(kind, [nameservers.at(CACHE)], "text", "TXT", search=search)
    assert answer.records == ('"v=spf1 -all" "second"',)
    with pytest.raises(NameNotFoundError):
        await lookup(kind, [nameservers.at(CACHE)], "text.", "TXT", search=search)


@both
async def test_dns_over_tls_is_spoken_to_a_verified_server(
    kind: str, nameservers: Nameservers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(nameservers.certificate))
    server = f"tls://{CACHE}:{nameservers.tls_port}"
    for named in (server, f"{server}#dns.example"):
        answer = await lookup(kind, [named], "www.example.shop", "A")
        assert set(answer.records) == {"192.0.2.10", "192.0.2.11"}
        assert answer.server == server


def refusal(kind: str, server: str, certificate: str = "") -> str:
    """Return what a process of its own is told when it asks `server`.

    In this one, what asyncio leaves of a refused handshake would be warned of in a later test.
    """
    lookup = f"Resolver([{server!r}]).lookup('www.example.shop')"
    ask = lookup if kind == "sync" else f"asyncio.run(Async{lookup})"
    code = f"import asyncio\nfrom datakit import AsyncResolver, Resolver\n{ask}"
    env = {**os.environ, "SSL_CERT_FILE": certificate} if certificate else None
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@both
async def test_dns_over_https_is_spoken_to_a_verified_server(
    kind: str, nameservers: Nameservers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = f"https://{CACHE}:{nameservers.https_port}/dns-query"
    assert "certificate" in refusal(kind, server).lower()  # nobody trusts it
    monkeypatch.setenv("SSL_CERT_FILE", str(nameservers.certificate))
    answer = await lookup(kind, [server], "www.example.shop", "A")
    assert set(answer.records) == {"192.0.2.10", "192.0.2.11"}
    assert answer.server == server


@both
async def test_a_tls_server_that_cannot_prove_its_name_is_not_asked(
    kind: str, nameservers: Nameservers
) -> None:
    server = f"tls://{CACHE}:{nameservers.tls_port}"
    assert "certificate" in refusal(kind, server).lower()  # nobody trusts it
    told = refusal(kind, f"{server}#another.example", str(nameservers.certificate))
    assert "another.example" in told


async def traced(kind: str, nameservers: Nameservers, name: str, rdtype: str = "A") -> Trace:
    roots = {"ns.rootsrv.": [ROOT]}
    options = {"roots": roots, "port": nameservers.port, "timeout": 0.5}
    if kind == "sync":
        resolver = Resolver([nameservers.at(CACHE)])
        return await asyncio.to_thread(trace, name, rdtype, resolver=resolver, **options)  # type: ignore[arg-type]
    own = AsyncResolver([nameservers.at(CACHE)])
    return await trace_async(name, rdtype, resolver=own, **options)  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(("name", "rdtype"), RECORDS)
async def test_a_trace_ends_with_what_unbound_says(
    kind: str, nameservers: Nameservers, name: str, rdtype: str
) -> None:
    found = await traced(kind, nameservers, name, rdtype)
    assert set(found.records) == oracle(nameservers, name, rdtype)
    assert found.agrees


@both
async def test_a_trace_tells_each_hop_from_the_root(kind: str, nameservers: Nameservers) -> None:
    found = await traced(kind, nameservers, "www.example.shop")
    hops = [(hop.zone, hop.server, hop.address, hop.kind, hop.ttl) for hop in found.hops]
    assert hops == [
        (".", "ns.rootsrv", nameservers.at(ROOT), "referral", 3600),
        ("shop", "ns.shop", nameservers.at(SHOP), "referral", 1800),
        ("example.shop", "ns1.example.shop", nameservers.at(LEAF), "answer", 60),
    ]
    assert [hop.authoritative for hop in found.hops] == [False, False, True]
    assert all(hop.round_trip > 0 and hop.rcode == "NOERROR" for hop in found.hops)
    assert found.hops[-1].notes == ("only the zone itself names ns2.example.shop.",)
    assert "192.0.2.10" in str(found)


@both
async def test_a_server_without_glue_is_found_from_the_root(
    kind: str, nameservers: Nameservers
) -> None:
    found = await traced(kind, nameservers, "www.glueless.shop")
    assert found.records == ("192.0.2.30",)
    assert [hop.zone for hop in found.hops] == [".", "shop", ".", "other", "glueless.shop"]


@both
async def test_a_lame_server_is_told_and_passed_over(kind: str, nameservers: Nameservers) -> None:
    found = await traced(kind, nameservers, "www.lame.shop")
    assert found.records == ("192.0.2.40",)
    (lame,) = (hop for hop in found.hops if hop.kind == "lame")
    assert lame.server == "ns0.lame.shop"
    assert "no AA bit" in lame.notes[0]


@both
async def test_dead_servers_and_absences(kind: str, nameservers: Nameservers) -> None:
    dead = await traced(kind, nameservers, "www.dead.shop")
    assert "ns.dead.shop." in dead.error
    assert "did not answer" in dead.error
    assert [hop.kind for hop in dead.hops] == ["referral", "referral"]
    assert dead.error in str(dead)
    gone = await traced(kind, nameservers, "nobody.example.shop")
    assert (gone.records, gone.hops[-1].kind, gone.agrees) == ((), "nxdomain", True)
    bare = await traced(kind, nameservers, "www.example.shop", "MX")
    assert (bare.records, bare.hops[-1].kind, bare.agrees) == ((), "nodata", True)


async def test_a_resolver_that_says_otherwise_is_told(nameservers: Nameservers) -> None:
    """A split horizon: the resolver's zone has another address."""
    from datakit.testing import DnsServer

    with DnsServer() as inside:
        inside.set("www.example.shop", "A", ["10.0.0.7"])
        found = await asyncio.to_thread(
            trace, "www.example.shop", resolver=Resolver([inside.endpoint]),
            roots={"ns.rootsrv.": [ROOT]}, port=nameservers.port,
        )  # fmt: skip
    assert found.agrees is False
    assert found.resolver == ("10.0.0.7",)
    assert "says otherwise, perhaps for us alone: 10.0.0.7" in str(found)


def test_the_shipped_root_hints_are_the_thirteen_roots() -> None:
    from datakit.dns.tracing import root_hints

    roots = root_hints()
    assert sorted(roots) == [f"{letter}.root-servers.net." for letter in "abcdefghijklm"]
    for addresses in roots.values():
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in addresses]
        assert sorted(families) == [socket.AF_INET, socket.AF_INET6]
        for family, ip in zip(families, addresses, strict=True):
            socket.inet_pton(family, ip)


@both
async def test_a_server_that_only_refers_is_passed_over(
    kind: str, nameservers: Nameservers
) -> None:
    servers = [nameservers.at(ROOT), nameservers.at(CACHE)]
    answer = await lookup(kind, servers, "www.example.shop", "A")
    assert answer.server == nameservers.at(CACHE)
    with pytest.raises(ServerFailureError, match="referral only"):
        await lookup(kind, servers[:1], "www.example.shop", "A")


@both
async def test_a_search_domain_that_makes_a_name_too_long_is_skipped(
    kind: str, nameservers: Nameservers
) -> None:
    search = [".".join(["x" * 60] * 4), "example.shop"]
    answer = await lookup(kind, [nameservers.at(CACHE)], "text", "TXT", search=search)
    assert answer.records


def test_a_trace_ends_with_the_deadline(nameservers: Nameservers) -> None:
    silent = {f"ns{n}.": [f"127.0.53.{n}"] for n in range(90, 99)}
    with deadline(0.3), pytest.raises(DeadlineExceededError):
        trace("www.example.shop", roots=silent, port=nameservers.port)


@both
async def test_both_families_are_found_over_tls(
    kind: str, nameservers: Nameservers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datakit.dns.resolver", "datakit.dns.resolver_async"):
        monkeypatch.setattr(f"{module}.has_ipv6", lambda: True)
        monkeypatch.setattr(f"{module}.RESOLUTION_DELAY", 5.0)  # the machine may be busy
    monkeypatch.setenv("SSL_CERT_FILE", str(nameservers.certificate))
    server = f"tls://{CACHE}:{nameservers.tls_port}"
    if kind == "sync":
        found = await asyncio.to_thread(Resolver([server]).addresses, "www.example.shop", 1)
    else:
        found = await AsyncResolver([server]).addresses("www.example.shop", 1)
        await asyncio.sleep(0.2)  # as in `lookup`
    assert {a.ip for a in found} == {"2001:db8::10", "192.0.2.10", "192.0.2.11"}
