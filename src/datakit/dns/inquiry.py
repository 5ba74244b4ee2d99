"""A lookup under way that its caller can leave and a later one take up, without a thread."""

import os
import selectors
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from datakit.dns.resolution import Ask

if TYPE_CHECKING:
    from collections.abc import Generator

    import dns.message

T = TypeVar("T")

MAX_DATAGRAM: Final = 65_535
"""Bytes."""


class Inquiry(Generic[T]):
    """Carries `steps` out. Its first query is sent at once, where it goes by UDP."""

    def __init__(self, steps: "Generator[Ask, dns.message.Message, T]") -> None:
        self._owner = os.getpid()
        self._steps = steps
        self._query: _Query | None = None
        self._refusal: Exception | None = None  # for `advance` to raise
        try:
            self._query = _Query(next(steps))
        except Exception as exc:  # noqa: BLE001 - whatever the steps raise
            self._refusal = exc

    @property
    def is_sent(self) -> bool:
        """Whether a query is on its way, so that it makes sense to look for a reply."""
        return self._query is not None and self._query.sock is not None

    @property
    def is_own(self) -> bool:
        """Whether it was begun by this process and not by the one that it was forked from."""
        return self._owner == os.getpid()

    @property
    def has_reply(self) -> bool:
        """Whether something has come that may be the reply."""
        sock = self._query.sock if self._query is not None else None
        return sock is not None and _is_readable(sock, 0.0)

    def advance(self, until: float | None = None) -> T | None:
        """Return what the steps return; None when that is not there at the second `until`.

        That is by `time.monotonic()`. A query over UDP stays on its way then; any other is sent
        again the next time.

        Raises: whatever the steps raise.
        """
        while True:
            try:
                ask = self._step(until)
            except _NotYet:
                return None
            except StopIteration as done:
                outcome: T = done.value
                return outcome
            self._close()
            self._query = _Query(ask)

    def _step(self, until: float | None) -> Ask:
        if self._query is None:
            assert self._refusal is not None
            raise self._refusal
        try:
            reply = self._query.receive(until)
        except _NotYet:
            raise
        except Exception as exc:  # noqa: BLE001 - the steps decide what it means
            return self._steps.throw(exc)
        return self._steps.send(reply)

    def _close(self) -> None:
        if self._query is not None:
            self._query.close()

    __del__ = _close


class _NotYet(Exception):
    """The caller's time is over, the query's is not."""


class _Query:
    """One query, sent now if it goes by UDP; `receive` gets the reply, or sends it then."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.sent_at = time.monotonic()
        self.sock = None if ask.over_tcp or ask.server.kind != "udp" else _send(ask)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()

    def receive(self, until: float | None) -> "dns.message.Message":
        """Return the reply, as the server's own `query` does.

        Raises:
            _NotYet: there is none at the monotonic second `until`.
            dns.exception.DNSException, OSError: there is none, in time or at all.
        """
        import dns.exception

        expires_at = (time.monotonic() if self.sock is None else self.sent_at) + self._ask.timeout
        limit = expires_at if until is None else min(until, expires_at)
        try:
            return self._receive(limit)
        except dns.exception.Timeout:
            if limit < expires_at:
                raise _NotYet from None
            raise

    def _receive(self, limit: float) -> "dns.message.Message":
        import dns.exception

        ask, sock = self._ask, self.sock
        if sock is None:
            left = limit - time.monotonic()
            if left <= 0:
                raise dns.exception.Timeout
            return ask.server.wire.query(ask.query, left, None, 0, ask.over_tcp)
        while True:
            left = limit - time.monotonic()
            if not _is_readable(sock, left):
                raise dns.exception.Timeout
            wire, source = sock.recvfrom(MAX_DATAGRAM)
            reply = self._reply(wire, source)
            if reply is not None:
                return reply
            if left <= 0:  # a flood of what is no reply must not hold anyone up
                raise dns.exception.Timeout

    def _reply(self, wire: bytes, source: tuple[str, int]) -> "dns.message.Message | None":
        """Return the message, None when it is not the server's answer to this query.

        Raises:
            dns.message.Truncated: it is, without all of its records.
        """
        import dns.exception
        import dns.message

        ask = self._ask
        where = (ip_address(ask.server.address), ask.server.port)
        if (ip_address(source[0]), source[1]) != where:
            return None
        try:
            reply = dns.message.from_wire(wire, raise_on_truncation=True)
        except dns.message.Truncated as exc:
            if ask.query.is_response(exc.message()):  # type: ignore[no-untyped-call]
                raise
            return None
        except (dns.exception.DNSException, ValueError):
            return None
        return reply if ask.query.is_response(reply) else None


def _send(ask: Ask) -> socket.socket | None:
    """Return the socket that `ask` was sent from; None when it could not be."""
    import dns.exception

    server = ask.server
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.sendto(ask.query.to_wire(), (server.address, server.port))
    except (OSError, dns.exception.DNSException):
        sock.close()  # the server's own `query` will meet and tell what is wrong
        return None
    return sock


def _is_readable(sock: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(max(seconds, 0.0)))
