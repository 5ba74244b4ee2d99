"""The way of a name from the root, as a generator that does no I/O.

The shell sends the reply to each `Ask` into it, or throws what went wrong.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from datakit._clock import Clock
from datakit.dns.hop import Hop
from datakit.dns.resolution import EDNS_PAYLOAD, MAX_CHAIN, Ask, parse_question, target_of
from datakit.dns.servers import Server
from datakit.errors import ServerFailureError
from datakit.resilience.deadlines import deadline

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rdatatype
    import dns.rrset

MAX_QUERIES: Final = 100
"""Queries of one trace, those for glueless servers included."""

MAX_DEPTH: Final = 4
"""Servers whose address needs other servers whose address is not known, and so on."""

Names = Mapping[str, Sequence[str]]
"""Addresses by server name."""


@dataclass(slots=True)
class _Asked:
    """A query that got a reply, and what is odd about it."""

    zone: "dns.name.Name"
    server: str
    address: str
    reply: "dns.message.Message"
    round_trip: float
    notes: list[str] = field(default_factory=list)

    def hop(self, kind: str, rrset: "dns.rrset.RRset | None" = None) -> Hop:
        import dns.flags
        import dns.rcode

        return Hop(
            zone=self.zone.to_text(omit_final_dot=True) or ".",
            server=self.server.rstrip("."),
            address=self.address,
            round_trip=self.round_trip,
            authoritative=bool(self.reply.flags & dns.flags.AA),
            rcode=dns.rcode.to_text(self.reply.rcode()),
            ttl=float(rrset.ttl) if rrset is not None else 0.0,
            kind=kind,
            records=tuple(rdata.to_text() for rdata in rrset or ()),
            notes=tuple(self.notes),
        )


Asking = Generator[Ask, "dns.message.Message", _Asked]


@dataclass(slots=True)
class Iteration:
    """One trace.

    roots: addresses by server name. port: of all servers. timeout: seconds a query. use_ipv6:
    whether servers are asked at their IPv6 addresses too.

    Source: RFC 1034 section 5.3.3 for the algorithm.
    """

    name: str
    rdtype: str
    roots: Names
    port: int
    timeout: float
    use_ipv6: bool
    clock: Clock
    hops: list[Hop] = field(default_factory=list)
    queries: int = 0

    def steps(self) -> "Generator[Ask, dns.message.Message, tuple[str, ...]]":
        """Return the records found, none when the name or the type is not there.

        Raises:
            ConfigError: there can be no such name or type.
            ServerFailureError: the way ends before an answer, or takes too many queries.
        """
        name, kind = parse_question(self.name, self.rdtype)
        return (yield from self._resolve(name, kind, 0))

    def _resolve(
        self, name: "dns.name.Name", kind: "dns.rdatatype.RdataType", depth: int
    ) -> "Generator[Ask, dns.message.Message, tuple[str, ...]]":
        """Go from the root to the records of `name`, and anew for each of its aliases."""
        for _ in range(MAX_CHAIN):
            outcome = yield from self._descend(name, kind, depth)
            if isinstance(outcome, tuple):
                return outcome
            name = outcome
        raise ServerFailureError(f"{self.name}: a chain of more than {MAX_CHAIN} CNAMEs")

    def _descend(
        self, name: "dns.name.Name", kind: "dns.rdatatype.RdataType", depth: int
    ) -> "Generator[Ask, dns.message.Message, tuple[str, ...] | dns.name.Name]":
        """Return the records of `name`, or the name that it is an alias of."""
        import dns.name
        import dns.rcode
        import dns.rdataclass
        import dns.rdatatype

        zone = dns.name.root
        servers = {server: tuple(ips) for server, ips in self.roots.items()}
        parents: frozenset[str] = frozenset()
        while True:
            asked = yield from self._ask_zone(zone, servers, name, kind, depth)
            reply = asked.reply
            if parents:
                yield from self._compare(asked, parents)
            answer = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, kind)
            if answer is not None:
                self.hops.append(asked.hop("answer", answer))
                return tuple(rdata.to_text() for rdata in answer)
            alias = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
            if alias is not None:
                self.hops.append(asked.hop("alias", alias))
                return target_of(alias)
            referral = _referral(reply, zone, name)
            if referral is None:
                gone = reply.rcode() == dns.rcode.NXDOMAIN
                self.hops.append(asked.hop("nxdomain" if gone else "nodata"))
                return ()
            self.hops.append(asked.hop("referral", referral))
            servers = _glue(reply, referral, zone)
            parents = frozenset(servers)
            zone = referral.name

    def _ask_zone(
        self,
        zone: "dns.name.Name",
        servers: dict[str, tuple[str, ...]],
        name: "dns.name.Name",
        kind: "dns.rdatatype.RdataType",
        depth: int,
    ) -> Asking:
        """Return the first reply of one of the zone's servers that leads on."""
        troubles: list[str] = []
        for server, glue in servers.items():
            addresses = glue or (yield from self._glueless(server, depth))
            if not addresses:
                troubles.append(f"{server} has no address")
            for ip in addresses:
                if ":" in ip and not self.use_ipv6:
                    continue
                try:
                    asked = yield from self._ask(zone, server, ip, name, kind)
                except _NoReply as exc:
                    troubles.append(str(exc))
                    continue
                lame = _lameness(asked.reply, zone, name, kind)
                if lame:
                    troubles.append(f"{server} ({asked.address}) is lame: {lame}")
                    asked.notes.append(lame)
                    self.hops.append(asked.hop("lame"))
                    continue
                asked.notes += [trouble for trouble in troubles if "lame" not in trouble]
                return asked
        where = zone.to_text()
        raise ServerFailureError(
            f"{self.name}: no server of {where} leads on: {'; '.join(troubles)}"
        )

    def _glueless(
        self, server: str, depth: int
    ) -> "Generator[Ask, dns.message.Message, tuple[str, ...]]":
        """Return the addresses of a name server that came without them."""
        import dns.name
        import dns.rdatatype

        if depth >= MAX_DEPTH:
            return ()
        name = dns.name.from_text(server)
        try:
            found = yield from self._resolve(name, dns.rdatatype.A, depth + 1)
            if not found and self.use_ipv6:
                found = yield from self._resolve(name, dns.rdatatype.AAAA, depth + 1)
        except ServerFailureError:
            return ()
        return found

    def _ask(
        self,
        zone: "dns.name.Name",
        server: str,
        ip: str,
        name: "dns.name.Name",
        kind: "dns.rdatatype.RdataType",
    ) -> Asking:
        import dns.exception
        import dns.flags
        import dns.message

        query = dns.message.make_query(name, kind, use_edns=0, payload=EDNS_PAYLOAD)
        query.flags &= ~dns.flags.RD
        target = Server(ip, self.port)
        for over_tcp in (False, True):
            self.queries += 1
            if self.queries > MAX_QUERIES:
                raise ServerFailureError(f"{self.name}: not found after {MAX_QUERIES} queries")
            began = self.clock.monotonic()
            try:
                reply = yield Ask(target, query, deadline.bound(self.timeout), over_tcp)
            except dns.message.Truncated:
                continue
            except (dns.exception.DNSException, OSError, EOFError, ValueError) as exc:
                what = "did not answer" if isinstance(exc, dns.exception.Timeout) else f"{exc}"
                raise _NoReply(f"{server} ({target}) {what}") from exc
            return _Asked(zone, server, str(target), reply, self.clock.monotonic() - began)
        raise _NoReply(f"{server} ({target}) answered truncated over TCP")

    def _compare(
        self, asked: _Asked, parents: frozenset[str]
    ) -> "Generator[Ask, dns.message.Message, None]":
        """Note where the zone itself names other servers than its parent does."""
        import dns.rdataclass
        import dns.rdatatype

        ip = asked.address.rpartition(":")[0].strip("[]")
        ns = dns.rdatatype.NS
        try:
            own = (yield from self._ask(asked.zone, asked.server, ip, asked.zone, ns)).reply
        except _NoReply:
            return
        rrset = own.get_rrset(own.answer, asked.zone, dns.rdataclass.IN, ns)
        if rrset is None:
            return
        children = frozenset(rdata.target.to_text().lower() for rdata in rrset)
        for whose, names in (("parent", parents - children), ("zone itself", children - parents)):
            if names:
                asked.notes.append(f"only the {whose} names {', '.join(sorted(names))}")


class _NoReply(Exception):
    """A server that said nothing of use, and how."""


def _referral(
    reply: "dns.message.Message", zone: "dns.name.Name", name: "dns.name.Name"
) -> "dns.rrset.RRset | None":
    """Return the NS records of a zone between `zone` and `name`."""
    import dns.rdatatype

    for rrset in reply.authority:
        below = rrset.name != zone and rrset.name.is_subdomain(zone)
        if rrset.rdtype == dns.rdatatype.NS and below and name.is_subdomain(rrset.name):
            return rrset
    return None


def _glue(
    reply: "dns.message.Message", referral: "dns.rrset.RRset", zone: "dns.name.Name"
) -> dict[str, tuple[str, ...]]:
    """Return the addresses that came with a referral, by server, all servers included.

    Those of names outside the zone that was asked are not its to tell.
    """
    import dns.name
    import dns.rdatatype

    servers: dict[str, tuple[str, ...]] = {}
    for rdata in referral:
        target: dns.name.Name = rdata.target
        own = [
            record.to_text()
            for rrset in reply.additional
            if rrset.name == target and target.is_subdomain(zone)
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            for record in rrset
        ]
        servers[target.to_text().lower()] = tuple(own)
    return dict(sorted(servers.items(), key=lambda item: not item[1]))  # with glue first


def _lameness(
    reply: "dns.message.Message",
    zone: "dns.name.Name",
    name: "dns.name.Name",
    kind: "dns.rdatatype.RdataType",
) -> str:
    """Return why `reply` is not that of a server of `zone`, "" when it is."""
    import dns.flags
    import dns.rcode

    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"answers {dns.rcode.to_text(reply.rcode())}"
    leads_on = bool(reply.flags & dns.flags.AA) or _referral(reply, zone, name) is not None
    return "" if leads_on else "does not speak for the zone (no AA bit)"
