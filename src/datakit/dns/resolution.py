"""One lookup as a generator that does no I/O: it yields the name to ask for next.

The shell sends it dnspython's answer or throws dnspython's exception into it, and gets the
outcome as the generator's return value.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, cast

from datakit.dns.answer import TtlRules
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
    import dns.resolver
    from dns.rdtypes.ANY.SOA import SOA as SoaRdata

SOA = 6
MAX_CHAIN = 16
"""CNAME links followed before a chain is taken for a loop."""


class Found:
    """Records, and the seconds for which they hold."""

    def __init__(
        self, records: tuple[str, ...], chain: tuple[str, ...], ttl: float, server: str
    ) -> None:
        self.records = records
        self.chain = chain
        self.ttl = ttl
        self.server = server


class Absent:
    """The error that says what is missing, and the seconds for which that holds."""

    def __init__(self, error: DnsError, ttl: float) -> None:
        self.error = error
        self.ttl = ttl


def resolution(
    name: str, rdtype: str, rules: TtlRules
) -> Generator[str, "dns.resolver.Answer", Found | Absent]:
    """Ask for `name` and on along its CNAMEs.

    Raises:
        ConfigError: there can be no such name or type.
        ServerFailureError: every server failed, or the chain does not end.
        ResolveTimeoutError: no server answered in time.
    """
    import dns.exception
    import dns.name
    import dns.rdatatype
    import dns.resolver

    malformed = (
        dns.name.EmptyLabel,
        dns.name.LabelTooLong,
        dns.name.NameTooLong,
        dns.name.BadEscape,
        dns.rdatatype.UnknownRdatatype,
    )
    chain: list[str] = []
    ttl = rules.max_ttl
    target = name
    while True:
        try:
            reply = yield target
        except dns.resolver.NXDOMAIN as exc:
            return _absent(NameNotFoundError(f"{name} does not exist"), _nxdomain_ttl(exc), rules)
        except dns.exception.Timeout as exc:
            raise ResolveTimeoutError(f"no DNS server answered for {name} {rdtype}: {exc}") from exc
        except malformed as exc:
            raise ConfigError(f"{name!r} {rdtype!r} cannot be asked for: {exc}") from exc
        except (dns.exception.DNSException, OSError) as exc:
            raise ServerFailureError(f"could not resolve {name} {rdtype}: {exc}") from exc
        result = reply.chaining_result
        ttl = min(ttl, result.minimum_ttl)
        chain += [str(cname.target).rstrip(".") for rrset in result.cnames for cname in rrset]
        if reply.rrset is not None:
            server = f"{reply.nameserver}:{reply.port}"
            records = tuple(rdata.to_text() for rdata in reply.rrset)
            return Found(records, tuple(chain), rules.positive(ttl), server)
        if not result.cnames or reply.response.authority:
            return _absent(NoDataError(f"{name} has no {rdtype} record"), _soa_ttl(reply), rules)
        if len(chain) > MAX_CHAIN:
            raise ServerFailureError(f"{name}: a chain of more than {MAX_CHAIN} CNAMEs")
        target = f"{chain[-1]}."


def _absent(error: DnsError, ttl: float | None, rules: TtlRules) -> Absent:
    return Absent(error, rules.negative(NO_SOA_HOLD if ttl is None else ttl))


NO_SOA_HOLD = 1.0
"""Seconds that an absence without an SOA is held against herds. Source: RFC 9520."""


def _soa_ttl(reply: "dns.resolver.Answer") -> float | None:
    has_soa = any(rrset.rdtype == SOA for rrset in reply.response.authority)
    return reply.chaining_result.minimum_ttl if has_soa else None


def _nxdomain_ttl(exc: "dns.resolver.NXDOMAIN") -> float | None:
    responses: dict[object, dns.message.QueryMessage] = exc.kwargs["responses"]
    soas = (
        rrset
        for response in responses.values()
        for rrset in response.authority
        if rrset.rdtype == SOA
    )
    return min((min(soa.ttl, cast("SoaRdata", soa[0]).minimum) for soa in soas), default=None)
