"""As much of a MySQL server as a login takes, which keeps what it was sent."""

import contextlib
import socket
import ssl
import struct
import threading
from types import TracebackType
from typing import Self

from pymysql.constants import CLIENT

_SALT = b"0123456789abcdefghij"
_OK = b"\0\0\0\2\0\0\0"
_DENIED = b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied for user 'app'"
_BASE = (
    CLIENT.LONG_PASSWORD | CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
    | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA | CLIENT.CONNECT_WITH_DB | CLIENT.TRANSACTIONS
)  # fmt: skip


class MysqlEndpoint:
    """Listens on 127.0.0.1 for as long as the `with` block.

    context: what to speak TLS with; None for a server without it. greeting: the plugin it names
    first. switch: the plugin it asks for then; None for none. clear, secret: what it was sent
    without and within TLS. passwords: those that came by `switch`, or in a first packet.
    """

    def __init__(
        self,
        password: str,
        *,
        context: ssl.SSLContext | None = None,
        greeting: str = "mysql_native_password",
        switch: str | None = "mysql_clear_password",
    ) -> None:
        self._password = password.encode()
        self._context = context
        self._greeting = greeting
        self._switch = switch
        self.clear = b""
        self.secret = b""
        self.passwords: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._peer is not None:  # what it has sent is read still
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._peer, socket.SHUT_RD)  # past TLS
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            sock.settimeout(5)
            self._peer = sock
            with contextlib.suppress(OSError, EOFError):
                self._talk(sock)
            sock.close()

    def _talk(self, sock: socket.socket) -> None:
        capabilities = _BASE | (CLIENT.SSL if self._context else 0)
        _send(sock, 0, _greeting(capabilities, self._greeting))
        number, response = self._receive(sock)
        if self._context is not None and _flags(response) & CLIENT.SSL:
            sock = self._peer = self._context.wrap_socket(sock, server_side=True)
            number, response = self._receive(sock)
        try:
            self._log_in(sock, number, response)
        finally:
            sock.close()

    def _log_in(self, sock: socket.socket, number: int, response: bytes) -> None:
        if self._switch is None:
            password = _first_password(response)
        else:
            prompt = b"\3Password: " if self._switch == "dialog" else _SALT + b"\0"
            _send(sock, number + 1, b"\xfe" + self._switch.encode() + b"\0" + prompt)
            number, password = self._receive(sock)
        self.passwords.append(password.rstrip(b"\0").decode(errors="replace"))
        if password != self._password + b"\0":
            return _send(sock, number + 1, _DENIED)
        _send(sock, number + 1, _OK)
        while True:
            _, command = self._receive(sock)
            if command[:1] == b"\1":  # COM_QUIT
                return None
            _send(sock, 1, _OK)

    def _receive(self, sock: socket.socket) -> tuple[int, bytes]:
        head = self._exactly(sock, 4)
        return head[3], self._exactly(sock, int.from_bytes(head[:3], "little"))

    def _exactly(self, sock: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
            if isinstance(sock, ssl.SSLSocket):
                self.secret += more
            else:
                self.clear += more
        return data


def _send(sock: socket.socket, number: int, payload: bytes) -> None:
    sock.sendall(len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload)


def _flags(response: bytes) -> int:
    return int.from_bytes(response[:4], "little")


def _greeting(capabilities: int, plugin: str) -> bytes:
    low, high = capabilities & 0xFFFF, capabilities >> 16
    return (
        b"\x0a8.0.36\0"
        + struct.pack("<I", 7) + _SALT[:8] + b"\0"
        + struct.pack("<HBHHB", low, 45, 2, high, 21) + bytes(10)
        + _SALT[8:] + b"\0"
        + plugin.encode() + b"\0"
    )  # fmt: skip


def _first_password(response: bytes) -> bytes:
    """Return the length-encoded answer behind flags, sizes and the user's name."""
    rest = response[32:].partition(b"\0")[2]
    if rest[0] == 0xFC:
        return rest[3 : 3 + int.from_bytes(rest[1:3], "little")]
    return rest[1 : 1 + rest[0]]
