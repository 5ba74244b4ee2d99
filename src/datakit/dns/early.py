"""A query sent before its turn, so that two are on their way at once without a thread."""

import selectors
import socket
import time
from typing import TYPE_CHECKING, Self

from datakit.dns.resolution import Ask

if TYPE_CHECKING:
    import dns.message


class Early:
    """Sends `ask` now, where it goes by UDP; `receive` gets the reply later. A context manager."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._expires_at = time.time() + ask.timeout
        self._sock: socket.socket | None = None

    def __enter__(self) -> Self:
        import dns.exception
        import dns.query

        server = self._ask.server
        if server.kind == "udp":
            family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            try:
                dns.query.send_udp(sock, self._ask.query, (server.address, server.port))
            except (OSError, dns.exception.DNSException):
                sock.close()  # `receive` will meet and tell what is wrong
            else:
                self._sock = sock
        return self

    def __exit__(self, *_: object) -> None:
        if self._sock is not None:
            self._sock.close()

    def is_there(self, seconds: float) -> bool:
        """Return whether it makes sense to receive: something has come within `seconds`, or
        nothing could be sent early, so that only `receive` asks."""
        if self._sock is None:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def receive(self) -> "dns.message.Message":
        """Return the reply, as the server's own `query` does.

        Raises:
            dns.exception.DNSException, OSError: there is none, in time or at all.
        """
        import dns.message
        import dns.query

        ask = self._ask
        if self._sock is None:
            return ask.server.wire.query(ask.query, ask.timeout, None, 0, ask.over_tcp)
        received = dns.query.receive_udp(
            self._sock,
            (ask.server.address, ask.server.port),
            self._expires_at,
            ignore_unexpected=True,
            raise_on_truncation=True,
            ignore_errors=True,
            query=ask.query,
        )
        reply: dns.message.Message = received[0]
        return reply
