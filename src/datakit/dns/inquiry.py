"""A lookup under way that its caller can leave and a later one take up, without a thread."""

import os
import selectors
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from datakit.dns.resolution import Ask

if TYPE_CHECKING:
    from collections.abc import Generator

    import dns.message

T = TypeVar("T")


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
    def age(self) -> float:
        """Seconds since the last query was sent, for which its reply may have lain unread."""
        return time.monotonic() - self._query.sent_at if self._query is not None else 0.0

    def advance(self, until: float | None = None) -> T | None:
        """Return what the steps return; None when that is not there at the second `until`.

        The time bounds replies that come by UDP (`time.monotonic()`); any other query is sent and
        waited for as long as it says itself.

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
        ask = self._ask
        if self.sock is None:
            return ask.server.wire.query(ask.query, ask.timeout, None, 0, ask.over_tcp)
        import dns.exception
        import dns.message
        import dns.query

        expires_at = self.sent_at + ask.timeout
        limit = expires_at if until is None else min(until, expires_at)
        while _is_readable(self.sock, limit - time.monotonic()):
            with suppress(dns.exception.Timeout):  # what came was not the reply
                received = dns.query.receive_udp(
                    self.sock,
                    (ask.server.address, ask.server.port),
                    time.time(),  # no waiting there: a wall clock can be set back
                    ignore_unexpected=True,
                    raise_on_truncation=True,
                    ignore_errors=True,
                    query=ask.query,
                )
                reply: dns.message.Message = received[0]
                return reply
        if limit < expires_at:
            raise _NotYet
        raise dns.exception.Timeout


def _send(ask: Ask) -> socket.socket | None:
    """Return the socket that `ask` was sent from; None when it could not be."""
    import dns.exception
    import dns.query

    server = ask.server
    sock = socket.socket(
        socket.AF_INET6 if ":" in server.address else socket.AF_INET, socket.SOCK_DGRAM
    )
    try:
        sock.setblocking(False)
        dns.query.send_udp(sock, ask.query, (server.address, server.port))
    except (OSError, dns.exception.DNSException):
        sock.close()  # the server's own `query` will meet and tell what is wrong
        return None
    return sock


def _is_readable(sock: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(max(seconds, 0.0)))
