"""The first of several addresses that takes a connection, or answers. Source: RFC 8305.

A stopped process takes connections, since the kernel does it. Where that matters, the winner is
the first that says something, after a greeting that any server of its kind answers.
"""

import errno
import os
import selectors
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from datakit.dns.addresses import Address, interleaved
from datakit.resilience.deadlines import deadline, over

HEAD_START: Final = 0.25
"""Seconds before the next address is tried beside the last. Source: RFC 8305 section 5."""

Failed = Callable[[Address], object]
"""Told the address that could not be connected to."""


def new_socket(address: Address) -> tuple[socket.socket, tuple[str, int]]:
    """Return a non-blocking socket for `address`, and what to connect it to."""
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock, (address.ip, address.port)


def refused(name: str, errors: Sequence[tuple[Address, OSError]]) -> OSError:
    """Return the error of a race that nobody won: the last one's kind, everyone's text."""
    told = "; ".join(f"{a.ip} port {a.port}: {error}" for a, error in errors)
    last = errors[-1][1] if errors else OSError()
    message = f"could not connect to {name}: {told or 'it has no address'}"
    kind = type(last) if errors else OSError
    return kind(last.errno, message) if last.errno else kind(message)


class _Race:
    """Sockets that are connecting side by side."""

    def __init__(
        self,
        addresses: Sequence[Address],
        name: str,
        failed: Failed,
        greeting: bytes | None,
        head_start: float,
    ) -> None:
        self._queue = interleaved(addresses)
        self._name = name
        self._failed = failed
        self._greeting = greeting
        self._head_start = head_start
        self._selector = selectors.DefaultSelector()
        self._running: dict[socket.socket, Address] = {}
        self._errors: list[tuple[Address, OSError]] = []
        self._next_at = monotonic()

    def run(self) -> socket.socket:
        while self._queue or self._running:
            if self._queue and (not self._running or monotonic() >= self._next_at):
                self._start(self._queue.pop(0))
            winner = self._wait()
            if winner is not None:
                return winner
        raise refused(self._name, self._errors)

    def _start(self, address: Address) -> None:
        self._next_at = monotonic() + self._head_start
        sock, where = new_socket(address)
        try:
            sock.connect(where)
        except BlockingIOError:
            pass
        except OSError as exc:
            sock.close()
            self._lost(address, exc)
            return
        self._running[sock] = address
        self._selector.register(sock, selectors.EVENT_WRITE)

    def _wait(self) -> socket.socket | None:
        if not self._running:
            return None
        left = deadline.remaining()
        if left == 0:
            raise self._out_of_time()
        until_next = max(0.0, self._next_at - monotonic()) if self._queue else None
        waits = [seconds for seconds in (left, until_next) if seconds is not None]
        for key, ready in self._selector.select(min(waits, default=None)):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if not self._has_won(sock, ready):
                    continue
            except OSError as exc:
                address = self._running.pop(sock)
                self._selector.unregister(sock)
                sock.close()
                self._lost(address, exc)
                continue
            del self._running[sock]
            sock.setblocking(True)
            return sock
        return None

    def _has_won(self, sock: socket.socket, ready: int) -> bool:
        """Return whether a socket is connected, and has been answered where that is asked for.

        Raises:
            OSError: it is neither.
        """
        if ready & selectors.EVENT_READ:
            return answered(sock.recv(1))
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        if self._greeting is None:
            return True
        sock.send(self._greeting)
        self._selector.modify(sock, selectors.EVENT_READ)
        return False

    def _lost(self, address: Address, error: OSError) -> None:
        self._errors.append((address, error))
        self._failed(address)
        self._next_at = monotonic()

    def _out_of_time(self) -> Exception:
        for address in self._running.values():
            self._failed(address)
        silent = ", ".join(address.ip for address in self._running.values())
        return over(f"connecting to {self._name}; no answer from {silent}")

    def close(self) -> None:
        """Give up those that have not won."""
        for sock in self._running:
            sock.close()
        self._selector.close()


def answered(first: bytes) -> bool:
    """Return True for the first byte of an answer.

    Raises:
        ConnectionResetError: there is none.
    """
    if not first:
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    return True


def race(
    addresses: Sequence[Address],
    name: str,
    failed: Failed,
    *,
    greeting: bytes | None = None,
    head_start: float = HEAD_START,
) -> socket.socket:
    """Return a blocking socket connected to the first of `addresses` that takes it.

    greeting: what to send first; the winner is then the first that answers, and its socket is
        good for nothing else. Empty for servers that speak first. head_start: seconds before the
        next is tried.

    Raises:
        OSError: none does.
        DeadlineExceededError: none did in time.
    """
    contest = _Race(addresses, name, failed, greeting, head_start)
    try:
        return contest.run()
    finally:
        contest.close()
