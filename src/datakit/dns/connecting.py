"""The first of several addresses that takes a connection. Source: RFC 8305."""

import selectors
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from datakit.dns.addresses import Address, interleaved
from datakit.resilience.deadlines import deadline, over

HEAD_START: Final = 0.25
"""Seconds before the next address is tried beside the last. Source: RFC 8305 section 5."""

Failed = Callable[[str], object]
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

    def __init__(self, addresses: Sequence[Address], name: str, failed: Failed) -> None:
        self._queue = interleaved(addresses)
        self._name = name
        self._failed = failed
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
        self._next_at = monotonic() + HEAD_START
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
        for key, _ in self._selector.select(min(waits, default=None)):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            address = self._running.pop(sock)
            self._selector.unregister(sock)
            if error == 0:
                sock.setblocking(True)
                return sock
            sock.close()
            self._lost(address, OSError(error, _text(error)))
        return None

    def _lost(self, address: Address, error: OSError) -> None:
        self._errors.append((address, error))
        self._failed(address.ip)
        self._next_at = monotonic()

    def _out_of_time(self) -> Exception:
        for address in self._running.values():
            self._failed(address.ip)
        silent = ", ".join(address.ip for address in self._running.values())
        return over(f"connecting to {self._name}; no answer from {silent}")

    def close(self) -> None:
        """Give up those that have not won."""
        for sock in self._running:
            sock.close()
        self._selector.close()


def _text(error: int) -> str:
    import os

    return os.strerror(error)


def race(addresses: Sequence[Address], name: str, failed: Failed) -> socket.socket:
    """Return a blocking socket connected to the first of `addresses` that takes it.

    Raises:
        OSError: none does.
        DeadlineExceededError: none did in time.
    """
    contest = _Race(addresses, name, failed)
    try:
        return contest.run()
    finally:
        contest.close()
