"""Free ports."""

import random
import socket
from collections.abc import Callable, Sequence

_PORTS = range(10_000, 32_768)
"""Below Linux's ephemeral range: an outgoing connection never takes a killed server's port, and a
client that retries there never connects to itself (TCP's simultaneous open). Source: ip(7)."""

_CANDIDATES = 200
_LAUNCHES = 5


class PortTakenError(Exception):
    """A server lost the race for its port."""


def free_port(addresses: Sequence[str], *, udp: bool = False) -> int:
    """Return a port that is free for TCP (and UDP) on all `addresses`.

    Raises:
        OSError: none was found, or an address is not this machine's.
    """
    last: OSError | None = None
    for port in random.sample(_PORTS, _CANDIDATES):
        try:
            for address in addresses:
                _bind(address, port, socket.SOCK_STREAM)
                if udp:
                    _bind(address, port, socket.SOCK_DGRAM)
        except OSError as exc:
            last = exc
        else:
            return port
    raise OSError(f"no free port on {', '.join(addresses)}: {last}")


def launch_on_free_port(
    launch: Callable[[int], None],
    addresses: Sequence[str],
    wanted: int | None,
    *,
    udp: bool = False,
) -> None:
    """Call `launch(port)` with a free port, or with `wanted`; again while it loses the race.

    Raises:
        RuntimeError: the port was taken, several times over when any would do.
    """
    for tries_left in reversed(range(1 if wanted else _LAUNCHES)):
        try:
            launch(wanted or free_port(addresses, udp=udp))
            return
        except PortTakenError as exc:
            if not tries_left:
                raise RuntimeError(str(exc)) from exc


def _bind(address: str, port: int, kind: socket.SocketKind) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.bind((address, port))
