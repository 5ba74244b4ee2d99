"""A PostgreSQL proxy that asks for the password in clear text over TLS and lets nobody in."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_ASK = b"R" + struct.pack("!II", 8, 3)


class PostgresEndpoint:
    """Refuses one login after the other with these messages (code, text), the last one for good.

    passwords: those it was sent.
    """

    def __init__(self, context: ssl.SSLContext, refusals: Sequence[tuple[str, str]]) -> None:
        self._context = context
        self._refusals = list(refusals)
        self.passwords: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            plain.settimeout(5)
            with contextlib.suppress(OSError, EOFError), plain:
                _exactly(plain, 8)  # SSLRequest
                plain.sendall(b"S")
                with self._context.wrap_socket(plain, server_side=True) as sock:
                    self._refuse(sock)

    def _refuse(self, sock: socket.socket) -> None:
        _exactly(sock, struct.unpack("!I", _exactly(sock, 4))[0] - 4)
        sock.sendall(_ASK)
        _, length = struct.unpack("!cI", _exactly(sock, 5))
        self.passwords.append(_exactly(sock, length - 4).rstrip(b"\0").decode())
        code, text = self._refusals.pop(0) if len(self._refusals) > 1 else self._refusals[0]
        fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
        sock.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
