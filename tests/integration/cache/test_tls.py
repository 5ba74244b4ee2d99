"""rediss:// talks to a verified server or not at all."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from datakit.cache import Cache
from datakit.errors import CacheUnavailableError, ConfigError


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1, its key in the same file."""
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=cache", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_text(pem.read_text() + key.read_text())
    return pem


@pytest.fixture
def address(certificate: Path) -> Iterator[str]:
    """A TLS server that answers a Redis client's handshake and GET, one client at a time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as conn:
                while data := conn.recv(4000):
                    conn.sendall(b"%1\r\n$5\r\nproto\r\n:3\r\n" if b"HELLO" in data else b"_\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_known_certificate_is_accepted(
    side_of: Callable[[Cache], Any], address: str, certificate: Path
) -> None:
    """`ssl_ca_certs` adds to what is trusted."""
    side = side_of(Cache(f"rediss://{address}?ssl_ca_certs={certificate}", timeout=5))
    side.delete("k")
    assert side.get("k") is None


def test_unknown_certificate_is_refused(side_of: Callable[[Cache], Any], address: str) -> None:
    """Nothing is sent to a server that cannot prove its name."""
    side = side_of(Cache(f"rediss://{address}", timeout=5))
    with pytest.raises(CacheUnavailableError, match=r"(?i)certificate"):
        side.delete("k")


def test_wrong_name_is_refused(
    side_of: Callable[[Cache], Any], address: str, certificate: Path
) -> None:
    """The certificate is for 127.0.0.1, not for localhost."""
    url = f"rediss://{address.replace('127.0.0.1', 'localhost')}?ssl_ca_certs={certificate}"
    side = side_of(Cache(url, timeout=5))
    with pytest.raises(CacheUnavailableError):
        side.delete("k")


def test_certificates_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        Cache(f"rediss://localhost?ssl_ca_certs={tmp_path / 'none.pem'}")
