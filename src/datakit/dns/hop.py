"""What a trace found, one record a hop. Pure."""

from dataclasses import dataclass, field
from typing import Final

SHOWN: Final = 6
"""Records that the text of a trace holds; the attributes hold all."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One query on the way from the root to the answer.

    zone: whose server was asked, "." for the root. server: its name. address: "ip:port".
    round_trip: seconds. authoritative: the AA bit. rcode: such as "NOERROR". ttl: seconds, of
    the records. kind: "referral", "answer", "alias", "nxdomain", "nodata" or "lame".
    records: the name servers of a referral, or the answer. notes: what is odd here.
    """

    zone: str
    server: str
    address: str
    round_trip: float
    authoritative: bool
    rcode: str
    ttl: float
    kind: str
    records: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        flag = " AA" if self.authoritative else ""
        head = (
            f"{self.zone:<24} {self.server} ({self.address}) {self.round_trip * 1000:.1f} ms "
            f"{self.rcode}{flag} {self.kind}"
        )
        if self.records:
            head += f", TTL {self.ttl:g}: {_shown(self.records)}"
        return "\n".join([head, *(f"    ! {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True)
class Trace:
    """The way of one name from the root.

    records: the answer's, empty when there is none. hops: in the order asked, those included
    that found out the address of a name server. resolver: what the configured resolver says, or
    its error. agrees: whether both have the same records; None when no resolver was asked.
    error: where the way ended before an answer, each server tried; "" when there was one.
    """

    name: str
    rdtype: str
    records: tuple[str, ...]
    hops: tuple[Hop, ...] = field(repr=False)
    resolver: tuple[str, ...] | str | None = None
    error: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the configured resolver gives the same records, in any order."""
        if self.resolver is None:
            return None
        if isinstance(self.resolver, str):
            return False
        return sorted(self.resolver) == sorted(self.records)

    def __str__(self) -> str:
        lines = [str(hop) for hop in self.hops]
        lines.append(
            f"! {self.error}"
            if self.error
            else f"{self.name} {self.rdtype}: {_shown(self.records) or 'no records'}"
        )
        if self.agrees is False:
            other = self.resolver
            said = other if isinstance(other, str) else _shown(other or ()) or "no records"
            lines.append(f"! the configured resolver says otherwise, perhaps for us alone: {said}")
        return "\n".join(lines)


def _shown(records: tuple[str, ...]) -> str:
    """Return the first few records as text."""
    more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
    return ", ".join(records[:SHOWN]) + more
