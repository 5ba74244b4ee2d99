"""The servers that are asked, in which order, and how each has done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from itertools import cycle, repeat
from typing import TYPE_CHECKING, Final

from datakit.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import dns.nameserver

ASIDE_FIRST: Final = 1.0
ASIDE_MOST: Final = 30.0
"""Seconds for which a server that does not answer is asked last, doubling from the first to the
most. Source: RFC 9520 section 3.2 for the growth."""

_FORM: Final = re.compile(
    r"(?:(?P<scheme>tls)://)?(?:\[(?P<v6>[^]]+)\]|(?P<v4>[^:#\[\]]+)|(?P<bare>[0-9A-Fa-f:.%]+))"
    r"(?::(?P<port>\d+))?(?:#(?P<name>[^#/]+))?"
)


@dataclass(eq=False)
class Server:
    """One server and its record. `address` is the URL of a DNS over HTTPS server."""

    address: str
    port: int
    kind: str = "udp"
    name: str | None = None
    queries: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    aside_until: float = field(default=0.0, init=False)
    _aside: float = field(default=0.0, init=False)

    def __str__(self) -> str:
        if self.kind == "https":
            return self.address
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'tls://' if self.kind == 'tls' else ''}{host}:{self.port}"

    def succeeded(self) -> None:
        """Take note of an answer."""
        self._aside = self.aside_until = 0.0

    def failed(self, now: float, *, silent: bool) -> None:
        """Take note of a failure at the monotonic second `now`; one that is silent is set aside."""
        self.failures += 1
        if silent and now >= self.aside_until:  # once for all who found it out at the same time
            self._aside = min(self._aside * 2 or ASIDE_FIRST, ASIDE_MOST)
            self.aside_until = now + self._aside

    @cached_property
    def wire(self) -> "dns.nameserver.Nameserver":
        """Dnspython's object that sends queries to it."""
        import dns.nameserver

        if self.kind == "https":
            return dns.nameserver.DoHNameserver(self.address)
        if self.kind == "tls":
            return dns.nameserver.DoTNameserver(
                self.address, self.port, hostname=self.name or self.address
            )
        return dns.nameserver.Do53Nameserver(self.address, self.port)


class ServerGroup:
    """The servers of one zone, or those for all other names."""

    def __init__(self, servers: Sequence[Server], *, rotate: bool = False) -> None:
        self.servers = tuple(servers)
        self._first = cycle(range(len(servers))) if rotate and servers else repeat(0)

    def order(self, now: float) -> list[Server]:
        """Return whom to ask at the monotonic second `now`, those set aside last.

        Else as given; with `rotate` the next lookup begins with the next server.
        """
        first = next(self._first)
        servers = self.servers[first:] + self.servers[:first]
        return sorted(servers, key=lambda server: max(server.aside_until - now, 0.0))


def parse_server(text: str) -> Server:
    """Return the server that `text` names.

    "address", "address:port" or "[v6 address]:port"; "tls://address:port#name" for DNS over TLS,
    whose certificate must be for `name` (else for the address); "https://host/path" for DNS over
    HTTPS.

    Raises:
        ConfigError: it names none.
        MissingExtraError: DNS over HTTPS needs a package that is not installed.
    """
    if not isinstance(text, str):
        raise ConfigError(f"DNS server {text!r}: expected text such as '10.0.0.2:53'")
    if text.startswith("https://"):
        import dns.query

        if not dns.query.have_doh:
            raise MissingExtraError(f"{text} needs an HTTP client: pip install 'datakit[doh]'")
        return Server(text, 443, "https")
    match = _FORM.fullmatch(text)
    address = (match["v6"] or match["v4"] or match["bare"]) if match else ""
    kind = "tls" if match and match["scheme"] else "udp"
    port = int((match and match["port"]) or (853 if kind == "tls" else 53))
    try:
        ip_address(address)
    except ValueError:
        raise ConfigError(
            f"DNS server {text!r}: expected an IP address, with ':port' when it is not 53"
        ) from None
    if not 0 < port < 65536:
        raise ConfigError(f"DNS server {text!r}: {port} is not a port")
    return Server(address, port, kind, match["name"] if match else None)
