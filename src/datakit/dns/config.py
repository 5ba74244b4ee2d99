"""Which servers are asked, and how long each may take."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from datakit.errors import ConfigError

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

    R = TypeVar("R", dns.resolver.Resolver, dns.asyncresolver.Resolver)

EDNS_PAYLOAD = 1232
"""Bytes of a UDP answer that no link fragments. Source: DNS Flag Day 2020."""

_ENDPOINT = re.compile(r"\[(?P<v6>[^]]+)\]:(?P<p6>\d+)|(?P<v4>[^:]+):(?P<p4>\d+)")


def parse_server(text: str) -> tuple[str, int]:
    """Return the address and port that "address", "address:port" or "[v6 address]:port" names.

    Raises:
        ConfigError: it names none.
    """
    match = _ENDPOINT.fullmatch(text)
    address = (match["v6"] or match["v4"]) if match else text
    port = int(match["p6"] or match["p4"]) if match else 53
    try:
        ip_address(address)
    except ValueError:
        raise ConfigError(
            f"DNS server {text!r}: expected an IP address, with ':port' when it is not 53"
        ) from None
    if not 0 < port < 65536:
        raise ConfigError(f"DNS server {text!r}: {port} is not a port")
    return address, port


def configured(
    stub: "R",
    servers: Sequence[tuple[str, int]] | None,
    search: Sequence[str] | None,
    timeout: float,
) -> "R":
    """Return dnspython's resolver made ready: it does the wire, the caching is ours.

    Without `servers` it keeps what resolv.conf says.

    Raises:
        ConfigError: no server is left to ask.
    """
    import dns.name
    import dns.nameserver

    stub.cache = None
    stub.timeout = timeout
    stub.use_edns(0, 0, EDNS_PAYLOAD)
    if servers is not None:
        stub.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
        stub.search = []
    if search is not None:
        stub.search = [dns.name.from_text(domain) for domain in search]
    if not stub.nameservers:
        raise ConfigError("no DNS server: pass servers=[...] or configure /etc/resolv.conf")
    return stub
