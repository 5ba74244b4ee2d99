"""Names that are never asked of a server: address literals, `localhost`, the hosts file."""

import socket
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

LOOPBACK = {"A": ("127.0.0.1",), "AAAA": ("::1",)}


def literal(name: str) -> str | None:
    """Return the record type that `name` is an address of, None when it is a name."""
    try:
        return "A" if ip_address(name).version == 4 else "AAAA"
    except ValueError:
        return None


def local_records(name: str, rdtype: str, hosts_file: Path) -> tuple[str, ...] | None:
    """Return the records of `name` known without a server; None when one must be asked.

    Source: RFC 6761 section 6.3 for `localhost` and the names below it; hosts(5).
    """
    version = literal(name)
    if version is not None:
        return (_canonical(name),) if version == rdtype else ()
    bare = name.rstrip(".")
    if bare == "localhost" or bare.endswith(".localhost"):
        return LOOPBACK.get(rdtype, ())
    if rdtype not in LOOPBACK:
        return None
    known = _hosts_addresses(bare, hosts_file)
    return tuple(_canonical(a) for a in known if literal(a) == rdtype) if known else None


def _canonical(ip: str) -> str:
    """Return `ip` as the peer of a socket is written, so that the two can be compared."""
    if "%" in ip:  # with its zone, which the C library's function does not know
        return ip
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, ip))


def _hosts_addresses(name: str, hosts_file: Path) -> tuple[str, ...]:
    try:
        status = hosts_file.stat()
        return _read(hosts_file, (status.st_mtime_ns, status.st_size, status.st_ino)).get(name, ())
    except OSError:
        return ()


@lru_cache(maxsize=4)
def _read(hosts_file: Path, _version: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name in the file, which is read once for each version of it."""
    found: dict[str, tuple[str, ...]] = {}
    for line in hosts_file.read_text(encoding="utf-8", errors="replace").splitlines():
        address, *names = line.partition("#")[0].lower().split() or [""]
        for name in names:
            found[name] = (*found.get(name, ()), address)
    return found
