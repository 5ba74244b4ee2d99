"""In which order the addresses of a name are tried. Pure: randomness and health are passed in."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

RESOLUTION_DELAY: Final = 0.05
"""Seconds to wait for the other family once one has answered. Source: RFC 8305 section 3."""


class Address(NamedTuple):
    """Where to connect: an IP address in text form and a port."""

    ip: str
    port: int


_PRECEDENCE: Final = [
    (ip_network(network), precedence)
    for network, precedence in (
        ("::1/128", 50), ("::ffff:0:0/96", 35), ("2002::/16", 30), ("2001::/32", 5),
        ("fc00::/7", 3), ("::/96", 1), ("fec0::/10", 1), ("3ffe::/16", 1), ("::/0", 40),
    )
]  # fmt: skip
"""The most specific first. Source: RFC 6724 section 2.1."""


def precedence(ip: str) -> int:
    """Return how much `ip` is preferred; IPv4 counts as ::ffff:0:0/96."""
    address: IPv4Address | IPv6Address = ip_address(ip)
    if isinstance(address, IPv4Address):
        address = IPv6Address(f"::ffff:{address}")
    return next(value for network, value in _PRECEDENCE if address in network)


def ordered(
    ips: Sequence[str], is_healthy: Callable[[str], bool], random: Callable[[], float]
) -> list[str]:
    """Return `ips` healthy ones first, the preferred family first, else at random."""
    return sorted(ips, key=lambda ip: (not is_healthy(ip), -precedence(ip), random()))


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return `addresses` with the families taking turns, for racing. Source: RFC 8305 section 4."""
    six = [address for address in addresses if ":" in address.ip]
    four = [address for address in addresses if ":" not in address.ip]
    first, second = (six, four) if addresses and ":" in addresses[0].ip else (four, six)
    turns: list[Address] = []
    for i in range(max(len(first), len(second))):
        turns += first[i : i + 1] + second[i : i + 1]
    return turns
