"""`socket.getaddrinfo` by way of a resolver, for code that cannot be told of one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any, Final

from datakit.dns.hosts import literal
from datakit.dns.resolver import Resolver
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    DnsError,
    NameNotFoundError,
    NoDataError,
)

Info = tuple[Any, Any, int, str, Any]
_KINDS: Final = {socket.AF_INET: "A", socket.AF_INET6: "AAAA"}
_inside = local()
"""Marks a thread whose resolver is at work: a name that it needs itself is not its to find."""


@contextmanager
def patch(resolver: Resolver) -> Iterator[None]:
    """Let `socket.getaddrinfo` find names through `resolver`, in the whole process.

    Nothing else is changed, so that everything that connects by name through Python's sockets
    follows, asyncio included. Addresses, service names, `AI_NUMERICHOST` and no host at all are
    the operating system's as before. Errors are `socket.gaierror` as ever: EAI_NONAME,
    EAI_NODATA, EAI_AGAIN.

    Raises:
        ConfigError: `resolver` is no `Resolver`.
    """
    if not isinstance(resolver, Resolver):
        raise ConfigError(f"patch({resolver!r}): needs a datakit Resolver, which threads can use")
    system, over = socket.getaddrinfo, False

    def getaddrinfo(
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Info]:
        name = host.decode("latin-1") if isinstance(host, bytes | bytearray) else host
        is_name = isinstance(name, str) and name and not _is_numeric(name)
        is_name = is_name and (family in _KINDS or not family)
        numeric = flags & socket.AI_NUMERICHOST
        if over or not is_name or numeric or getattr(_inside, "resolving", False):
            return system(host, port, family, type, proto, flags)
        assert isinstance(name, str)
        ips, canonical = _find(resolver, name, family, flags)
        plain = (flags | socket.AI_NUMERICHOST) & ~socket.AI_CANONNAME
        found: list[Any] = []
        for ip in ips:
            found += system(ip, port, family, type, proto, plain)
        if flags & socket.AI_CANONNAME and found:
            kind, sort, number, _, where = found[0]
            found[0] = (kind, sort, number, canonical, where)
        return found

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        over = True  # for a block that began inside and goes on
        if socket.getaddrinfo is getaddrinfo:
            socket.getaddrinfo = system


def _find(resolver: Resolver, name: str, family: int, flags: int) -> tuple[list[str], str]:
    """Return the addresses of `name`, best first, and its canonical name.

    Raises:
        socket.gaierror: there are none, or nobody could say.
    """
    _inside.resolving = True
    try:
        ips = [address.ip for address in resolver.addresses(name, 0)]
        wanted = _KINDS.get(socket.AddressFamily(family)) if family else None
        if wanted is not None:
            matching = [ip for ip in ips if literal(ip) == wanted]
            if not matching and not (wanted == "AAAA" and flags & socket.AI_V4MAPPED):
                matching = list(resolver.lookup(name, wanted).records)
            ips = matching or ips
        canonical = name.rstrip(".")
        if flags & socket.AI_CANONNAME and ips:
            canonical = (canonical, *resolver.lookup(name, literal(ips[0]) or "A").chain)[-1]
        return ips, canonical
    except NameNotFoundError as exc:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from exc
    except NoDataError as exc:
        raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname") from exc
    except ConfigError as exc:
        raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {exc}") from exc
    except (DnsError, DeadlineExceededError) as exc:
        raise socket.gaierror(
            socket.EAI_AGAIN, f"Temporary failure in name resolution: {exc}"
        ) from exc
    finally:
        _inside.resolving = False


def _is_numeric(name: str) -> bool:
    """Return whether `name` is an address in any form that the system takes."""
    if literal(name.partition("%")[0]) is not None:
        return True
    try:
        socket.inet_aton(name)  # "127.1"
    except (OSError, UnicodeError):
        return False
    return True
