"""A socket whose every wait ends at one point in time, however slowly bytes drip in.

Python's own timeouts bound one call each, and cost two more system calls.
"""

import socket
import ssl
import struct
from collections.abc import Callable
from select import POLLIN, POLLOUT, poll
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

P = ParamSpec("P")
T = TypeVar("T")


class BoundedSocket:
    """A connected socket that raises TimeoutError once `until` (monotonic seconds) is over.

    usual: seconds that an exchange is mostly given. The kernel bounds the first wait for that
    long; what comes in pieces, or has less time, is waited for step by step.
    """

    def __init__(self, sock: socket.socket, until: float, usual: float) -> None:
        self._sock = sock
        self._usual = usual
        self._readable = poll()
        self._readable.register(sock, POLLIN)
        self._writable = poll()
        self._writable.register(sock, POLLOUT)
        self.begin(until)
        self._prepare()

    def _prepare(self) -> None:
        whole = int(self._usual)
        bound = struct.pack("ll", whole, int((self._usual - whole) * 1e6) + 1)
        self._sock.setblocking(True)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)

    def begin(self, until: float) -> None:
        """Give what follows until that second."""
        self.until = until
        self._is_first = until - monotonic() >= 0.9 * self._usual

    def _wait(self, ready: poll) -> None:
        left = self.until - monotonic()
        if left <= 0 or not ready.poll(left * 1000 + 1):
            raise TimeoutError("timed out")

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, until the time is over."""
        if not self._is_first:
            self._wait(self._readable)
        self._is_first = False
        try:
            return self._sock.recv(size, flags)
        except BlockingIOError as exc:
            raise TimeoutError("timed out") from exc

    def recv_into(self, buffer: "WriteableBuffer") -> int:
        """Receive into `buffer`, until the time is over."""
        if not self._is_first:
            self._wait(self._readable)
        self._is_first = False
        try:
            return self._sock.recv_into(buffer)
        except BlockingIOError as exc:
            raise TimeoutError("timed out") from exc

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of `data`, until the time is over."""
        while True:
            try:
                sent = self._sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            self._wait(self._writable)

    def is_readable(self) -> bool:
        """Return whether bytes have come, or the end of the stream."""
        return bool(self._readable.poll(0))

    def settimeout(self, seconds: float | None) -> None:
        """Change nothing: `until` is over everything."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class BoundedTlsSocket(BoundedSocket):
    """The same for TLS, where to receive may mean to send."""

    def _prepare(self) -> None:
        self._sock.setblocking(False)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, until the time is over."""
        return self._patiently(self._sock.recv, size, flags)

    def recv_into(self, buffer: "WriteableBuffer") -> int:
        """Receive into `buffer`, until the time is over."""
        return self._patiently(self._sock.recv_into, buffer)

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of `data`, until the time is over."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._patiently(self._sock.send, rest) :]

    def _patiently(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                return work(*args, **kwargs)
            except ssl.SSLWantReadError:
                self._wait(self._readable)
            except ssl.SSLWantWriteError:
                self._wait(self._writable)
