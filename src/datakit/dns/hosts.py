"""Names that are never asked of a server: address literals, `localhost`, the hosts file."""

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
        return (name,) if version == rdtype else ()
    bare = name.rstrip(".")
    if bare == "localhost" or bare.endswith(".localhost"):
        return LOOPBACK.get(rdtype, ())
    if rdtype not in LOOPBACK:
        return None
    known = _hosts_addresses(bare, hosts_file)
    return tuple(a for a in known if literal(a) == rdtype) if known else None


def _hosts_addresses(name: str, hosts_file: Path) -> list[str]:
    try:
        lines = hosts_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    fields = (line.partition("#")[0].lower().split() for line in lines)
    return [field[0] for field in fields if name in field[1:]]
