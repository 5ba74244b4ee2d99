"""A blocking socket whose every wait ends at one point in time, however slowly bytes drip in."""

import socket
from select import select
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class BoundedSocket:
    """A connected socket that raises TimeoutError once `until` (monotonic seconds) is over."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self.until = until

    def _arm(self) -> None:
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive, until the time is over."""
        self._arm()
        return self._sock.recv(size, flags)

    def recv_into(self, buffer: "WriteableBuffer") -> int:
        """Receive into `buffer`, until the time is over."""
        self._arm()
        return self._sock.recv_into(buffer)

    def sendall(self, data: "ReadableBuffer") -> None:
        """Send all of `data`, until the time is over."""
        self._arm()
        self._sock.sendall(data)

    def is_readable(self) -> bool:
        """Return whether bytes have come, or the end of the stream."""
        return bool(select([self._sock], [], [], 0)[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
