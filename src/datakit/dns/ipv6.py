"""Whether it makes sense to ask for IPv6 addresses."""

import socket


def has_ipv6() -> bool:
    """Return whether this machine has a route to the IPv6 internet. Sends nothing.

    Source: RFC 3493 section 6.1, AI_ADDRCONFIG; connecting a datagram socket only looks up the
    route. The address is one for documentation, RFC 3849.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 53))
            return True
    except OSError:
        return False
