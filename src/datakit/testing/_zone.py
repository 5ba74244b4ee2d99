"""The records of a `DnsServer` and what an authoritative server answers from them."""

from collections.abc import Sequence
from threading import Lock

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from datakit.errors import ConfigError

_MAX_CHAIN = 16
_CNAME = dns.rdatatype.CNAME
Key = tuple[dns.name.Name, dns.rdatatype.RdataType]


class Zone:
    """Record sets below `origin`, changed by one thread while another answers from them.

    soa_ttl, soa_minimum: seconds, as the SOA record of a negative answer says them.
    """

    def __init__(self, origin: str, soa_ttl: int, soa_minimum: int) -> None:
        self.origin = parse_name(origin)
        self.soa_ttl = soa_ttl
        self.soa_minimum = soa_minimum
        self._lock = Lock()
        self._serial = 1
        self._sets: dict[Key, dns.rrset.RRset] = {}

    def set(self, name: str, rdtype: str, records: Sequence[str], ttl: int) -> None:
        """Replace a record set. A CNAME replaces all of the name's, and anything else a CNAME.

        Raises:
            ConfigError: the name, type or a record cannot be read, or is outside the zone.
        """
        owner, kind = parse_name(name), parse_type(rdtype)
        if not owner.is_subdomain(self.origin):
            raise ConfigError(f"{name} is not in the zone {self.origin}")
        try:
            rrset = dns.rrset.from_text_list(
                owner, ttl, dns.rdataclass.IN, kind, records, relativize=False, origin=dns.name.root
            )
        except (dns.exception.DNSException, ValueError) as exc:
            raise ConfigError(f"{name} {rdtype}: cannot read {records!r}: {exc}") from exc
        if not rrset:
            raise ConfigError(f"{name} {rdtype}: no records; use remove()")
        with self._lock:
            for key in [k for k in self._sets if k[0] == owner and _CNAME in (k[1], kind)]:
                del self._sets[key]
            self._sets[owner, kind] = rrset
            self._serial += 1

    def remove(self, name: str, rdtype: str | None) -> None:
        """Remove a record set, or all of the name's; one that is not there is no error.

        Raises:
            ConfigError: the name or type cannot be read.
        """
        owner = parse_name(name)
        kind = None if rdtype is None else parse_type(rdtype)
        with self._lock:
            for key in [k for k in self._sets if k[0] == owner and kind in (None, k[1])]:
                del self._sets[key]
            self._serial += 1

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """Return the response to `query`, with CNAMEs followed inside the zone.

        The response code tells of the chain's last name. Source: RFC 6604, section 3.
        """
        response = dns.message.make_response(query)
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        if len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
            return response
        question = query.question[0]
        in_zone = question.name.is_subdomain(self.origin)
        if not in_zone or question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        response.flags |= dns.flags.AA
        with self._lock:
            self._fill(response, question.name, question.rdtype)
        return response

    def deny(self, query: dns.message.Message) -> dns.message.Message:
        """Return NXDOMAIN for `query`, whatever the zone holds."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(self._soa())
        return response

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        for _ in range(_MAX_CHAIN):
            if found := self._find(name, kind):
                response.answer += found
                return
            alias = self._sets.get((name, _CNAME))
            if alias is None:
                break
            response.answer.append(alias)
            name = dns.name.from_text(str(alias[0]))
            if not name.is_subdomain(self.origin):
                return
        else:
            return
        if not any(owner.is_subdomain(name) for owner, _ in self._sets):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(self._soa())

    def _find(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[dns.rrset.RRset]:
        if kind == dns.rdatatype.ANY:
            return [rrset for (owner, _), rrset in self._sets.items() if owner == name]
        found = self._sets.get((name, kind))
        return [] if found is None else [found]

    def _soa(self) -> dns.rrset.RRset:
        master = dns.name.from_text("ns", self.origin)
        contact = dns.name.from_text("hostmaster", self.origin)
        text = f"{master} {contact} {self._serial} 60 60 600 {self.soa_minimum}"
        return dns.rrset.from_text(
            self.origin, self.soa_ttl, dns.rdataclass.IN, dns.rdatatype.SOA, text
        )


def parse_name(name: str) -> dns.name.Name:
    """Return `name` made absolute.

    Raises:
        ConfigError: it is no domain name.
    """
    try:
        return dns.name.from_text(name)
    except dns.exception.DNSException as exc:
        raise ConfigError(f"{name!r} is no domain name: {exc}") from exc


def parse_type(rdtype: str) -> dns.rdatatype.RdataType:
    """Return the record type of that mnemonic.

    Raises:
        ConfigError: there is none.
    """
    try:
        return dns.rdatatype.from_text(rdtype)
    except (dns.exception.DNSException, ValueError) as exc:
        raise ConfigError(f"{rdtype!r} is no DNS record type") from exc
