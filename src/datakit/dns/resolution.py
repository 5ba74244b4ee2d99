"""One lookup as a generator that does no I/O: it yields whom to ask for what.

The shell sends it the server's reply or throws what went wrong into it, and gets the outcome as
the generator's return value.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from datakit._clock import Clock
from datakit.dns.config import Configuration, Settings, candidates
from datakit.dns.servers import Server
from datakit.errors import (
    ConfigError,
    DnsError,
    NameNotFoundError,
    NoDataError,
    ResolveTimeoutError,
    ServerFailureError,
)

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rdatatype
    import dns.rrset
    from dns.rdtypes.ANY.CNAME import CNAME as CnameRdata
    from dns.rdtypes.ANY.SOA import SOA as SoaRdata

MAX_CHAIN: Final = 16
"""CNAME links followed. More is taken for a mistake or an attack."""

MAX_RECORDS: Final = 1_000
"""Records of one name and type."""

EDNS_PAYLOAD: Final = 1232
"""Bytes of a UDP answer that no link fragments. Source: DNS Flag Day 2020."""

LEAST_TIMEOUT: Final = 0.5
"""Seconds that a server has to answer, even where others wait for their turn; one that had less
is not set aside."""

NO_SOA_HOLD: Final = 1.0
"""Seconds that an absence without an SOA is held against herds. Source: RFC 9520."""

MAX_TTL: Final = 2**31 - 1
"""Seconds. Source: RFC 2181 section 8."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A query for the shell to send. timeout: seconds."""

    server: Server
    query: "dns.message.QueryMessage"
    timeout: float
    over_tcp: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Records, the names that led to them, and the seconds for which they hold."""

    records: tuple[str, ...]
    chain: tuple[str, ...]
    ttl: float
    server: str
    extended_error: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """The error that says what is missing, and the seconds for which that holds."""

    error: DnsError
    ttl: float


Outcome = Found | Absent
Steps = Generator[Ask, "dns.message.Message", Outcome]


@dataclass(slots=True)
class Trial:
    """What came of one query."""

    server: Server
    outcome: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.server} {self.outcome} ({self.seconds:.2f} s)"


@dataclass(slots=True)
class Resolution:
    """One lookup of `name`.

    until: the monotonic second at which it ends. answer_by: the one at which its caller will go on
    without it, by which each server has had its turn; only queries over UDP may last longer.
    begun_at, begun_at_wall: on both clocks.
    timeout: seconds that one query may take.
    """

    name: str
    rdtype: str
    configuration: Configuration
    timeout: float
    until: float
    answer_by: float
    clock: Clock
    begun_at: float
    begun_at_wall: float
    trials: list[Trial] = field(default_factory=list)
    answered: bool = False

    def steps(self) -> Steps:
        """Ask for the name under each of its forms, until one is there.

        Raises:
            ConfigError: there can be no such name or type.
            ServerFailureError: every server failed, or what they say cannot be used.
            ResolveTimeoutError: no server answered in time.
        """
        settings = self.configuration.settings(self.clock.monotonic())
        absent: Absent | None = None
        for candidate in candidates(self.name, settings):
            try:
                outcome = yield from self._one(candidate, settings)
            except ConfigError:
                if candidate == self.name.rstrip("."):
                    raise
                continue  # too long with that search domain
            if isinstance(outcome, Found):
                return outcome
            if absent is None or isinstance(outcome.error, NoDataError):
                absent = outcome  # a name that is there says more than one that is not
        assert absent is not None
        return absent

    def _one(self, name: str, settings: Settings) -> Steps:
        import dns.name
        import dns.rcode

        target, kind = parse_question(name, self.rdtype)
        chain: list[str] = []
        ttl = float(MAX_TTL)
        while True:
            reply, server = yield from self._exchange(target, kind, settings)
            rrset, ttl, elsewhere = self._follow(reply, target, kind, chain, ttl, settings)
            extended = _extended_error(reply)
            if rrset is not None:
                if len(rrset) > MAX_RECORDS:
                    raise ServerFailureError(
                        f"{self.name} {self.rdtype}: {len(rrset)} records from {server}, more than "
                        f"{MAX_RECORDS} are not taken"
                    )
                records = tuple(rdata.to_text() for rdata in rrset)
                return Found(records, tuple(chain), ttl, str(server), extended)
            last = dns.name.from_text(chain[-1]) if chain else target
            if elsewhere:
                target = last
                continue
            negative = _soa_ttl(reply, last)
            if reply.rcode() == dns.rcode.NXDOMAIN:
                error: DnsError = NameNotFoundError(f"{self.name} does not exist, says {server}")
                return Absent(error, NO_SOA_HOLD if negative is None else negative)
            if last == target or negative is not None:
                error = NoDataError(f"{self.name} has no {self.rdtype} record, says {server}")
                return Absent(error, NO_SOA_HOLD if negative is None else negative)
            target = last

    def _follow(
        self,
        reply: "dns.message.Message",
        name: "dns.name.Name",
        kind: "dns.rdatatype.RdataType",
        chain: list[str],
        ttl: float,
        settings: Settings,
    ) -> "tuple[dns.rrset.RRset | None, float, bool]":
        """Return the records at the end of the reply's CNAMEs, the lowest TTL, and whether the
        chain went on to a name that other servers must be asked for.

        Records of names that nothing led to are not looked at.
        """
        import dns.rdataclass
        import dns.rdatatype

        group = self.configuration.group_for(str(name), settings)
        first = name.to_text(omit_final_dot=True).lower()
        while True:
            rrset = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, kind)
            if rrset is not None:
                return rrset, min(ttl, rrset.ttl), False
            alias = reply.get_rrset(reply.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
            if alias is None:
                return None, ttl, False
            ttl = min(ttl, alias.ttl)
            name = target_of(alias)
            text = name.to_text(omit_final_dot=True).lower()
            if text in chain or text == first:
                raise ServerFailureError(f"{self.name}: its CNAMEs lead in a circle, to {text}")
            chain.append(text)
            if len(chain) > MAX_CHAIN:
                raise ServerFailureError(f"{self.name}: a chain of more than {MAX_CHAIN} CNAMEs")
            if self.configuration.group_for(text, settings) is not group:
                return None, ttl, True

    def _exchange(
        self, name: "dns.name.Name", kind: "dns.rdatatype.RdataType", settings: Settings
    ) -> "Generator[Ask, dns.message.Message, tuple[dns.message.Message, Server]]":
        """Ask one server after the other until one has an answer, each up to `attempts` times."""
        group = self.configuration.group_for(str(name), settings)
        if not group.servers:
            raise ConfigError("no DNS server: pass servers=[...] or configure /etc/resolv.conf")
        for _ in range(settings.attempts):
            servers = group.order(self.clock.monotonic())
            for i, server in enumerate(servers, 1):
                end = self.until if i == len(servers) else self.answer_by
                fair = (end - self.clock.monotonic()) / (len(servers) - i + 1)
                timeout = min(
                    settings.timeout or self.timeout, self.timeout, max(fair, LEAST_TIMEOUT)
                )
                reply = yield from self._ask(server, name, kind, timeout)
                if reply is not None:
                    return reply, server
        raise self._failure()

    def _ask(
        self,
        server: Server,
        name: "dns.name.Name",
        kind: "dns.rdatatype.RdataType",
        most: float,
    ) -> "Generator[Ask, dns.message.Message, dns.message.Message | None]":
        """Return what `server` answers; None when that is of no use."""
        import dns.exception
        import dns.message
        import dns.rcode

        query = dns.message.make_query(name, kind, use_edns=0, payload=EDNS_PAYLOAD)
        over_tcp = False
        for _ in range(3):  # as it is, over TCP when truncated, without EDNS when that is refused
            began = self.clock.monotonic()
            can_last = server.kind == "udp" and not over_tcp
            left = (self.until if can_last else self.answer_by) - began
            if left <= 0:
                raise self._failure()
            timeout = min(most, left)
            server.queries += 1
            try:
                reply = yield Ask(server, query, timeout, over_tcp)
            except dns.message.Truncated:
                if over_tcp:
                    self._failed(server, "answered truncated over TCP", began)
                    return None
                over_tcp = True
                continue
            except dns.exception.Timeout:
                self._failed(server, "did not answer", began, timeout >= LEAST_TIMEOUT)
                return None
            except Exception as exc:  # noqa: BLE001 - an HTTP client has errors of its own
                self._failed(server, f"failed: {exc or type(exc).__name__}", began, True)
                return None
            self.answered = True
            if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                server.succeeded()
                if not _is_mere_referral(reply):
                    return reply
                self._failed(server, "answered with a referral only", began)
                return None
            if reply.rcode() == dns.rcode.FORMERR and query.edns >= 0:
                query = dns.message.make_query(name, kind, use_edns=False)
                continue
            code = dns.rcode.to_text(reply.rcode())
            self._failed(server, f"answered {code} {_extended_error(reply)}".strip(), began)
            return None
        self._failed(server, "answered nothing of use", self.clock.monotonic())
        return None

    def _failed(self, server: Server, outcome: str, began: float, silent: bool = False) -> None:
        now = self.clock.monotonic()
        server.failed(now, silent=silent)
        self.trials.append(Trial(server, outcome, now - began))

    @property
    def age(self) -> float:
        """Seconds since it was begun, by the clock that moved more."""
        clock = self.clock
        return max(clock.monotonic() - self.begun_at, clock.wall() - self.begun_at_wall)

    def _failure(self) -> DnsError:
        """Return the error that lists every server tried, with its outcome and time."""
        tried = "; ".join(map(str, self.trials)) or "no time was left to ask"
        if self.answered:
            return ServerFailureError(f"could not resolve {self.name} {self.rdtype}: {tried}")
        return ResolveTimeoutError(f"no DNS server answered for {self.name} {self.rdtype}: {tried}")


def parse_question(name: str, rdtype: str) -> "tuple[dns.name.Name, dns.rdatatype.RdataType]":
    """Return the name and the type, as dnspython has them.

    Raises:
        ConfigError: there can be no such name or type.
    """
    import dns.exception
    import dns.name
    import dns.rdatatype

    try:
        kind = dns.rdatatype.from_text(rdtype)
        if dns.rdatatype.is_metatype(kind):
            raise ValueError("not a type of record")
        return dns.name.from_text(name), kind
    except (dns.exception.DNSException, ValueError) as exc:
        raise ConfigError(f"{name!r} {rdtype!r} cannot be asked for: {exc}") from exc


def _is_mere_referral(reply: "dns.message.Message") -> bool:
    """Return whether `reply` only says who else may know: no answer, and no absence either."""
    import dns.flags
    import dns.rdatatype

    kinds = {rrset.rdtype for rrset in reply.authority}
    refers = dns.rdatatype.NS in kinds and dns.rdatatype.SOA not in kinds
    return refers and not reply.answer and not reply.flags & dns.flags.AA


def target_of(alias: "dns.rrset.RRset") -> "dns.name.Name":
    """Return the name that a CNAME record set leads to."""
    return cast("CnameRdata", alias[0]).target


def _soa_ttl(reply: "dns.message.Message", name: "dns.name.Name") -> float | None:
    """Return for how long the absence of `name` holds, None without an SOA of a zone above it.

    Source: RFC 2308 section 5.
    """
    import dns.rdatatype

    for rrset in reply.authority:
        if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name):
            return float(min(rrset.ttl, cast("SoaRdata", rrset[0]).minimum))
    return None


def _extended_error(reply: "dns.message.Message") -> str:
    """Return the text of the reply's extended errors, "" without one. Source: RFC 8914."""
    import dns.edns

    return "; ".join(o.to_text() for o in reply.options if isinstance(o, dns.edns.EDEOption))
