"""A memcached of one's own."""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from datakit.errors import ConfigError
from datakit.testing._memory_server import MemoryServer
from datakit.testing._run_directory import RunDirectory

_ADMIN_PATH = "/usr/sbin:/usr/bin"  # not in every user's PATH


class MemcachedServer(MemoryServer):
    """One memcached on a loopback port, for as long as the `with` block. It is the system's.

    address, port: where it listens; a free port when none is given.
    megabytes: its memory; the least recently used items go when it is full.
    threads: its workers; each connection stays with one of them.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        megabytes: int = 64,
        threads: int = 4,
    ) -> None:
        super().__init__(address, port)
        self._megabytes = megabytes
        self._threads = threads

    @property
    def url(self) -> str:
        """`memcached://address:port`."""
        return f"memcached://{self.address}:{self._port}"

    def _find_program(self, run: RunDirectory) -> Path:
        found = shutil.which("memcached") or shutil.which("memcached", path=_ADMIN_PATH)
        if found is None:
            raise ConfigError("memcached is not installed here: apt-get install memcached")
        return Path(found)

    def _options(self, directory: Path) -> Sequence[str]:
        listen = ["-l", self.address, "-p", str(self._port), "-U", "0"]
        limits = ["-m", str(self._megabytes), "-c", "4096", "-t", str(self._threads)]
        return [*listen, *limits]

    def _is_ready(self, log: Path) -> bool:
        """Another program may have taken the port: this one tells its pid."""
        try:
            with socket.create_connection((self.address, self._port), 1.0) as connection:
                connection.sendall(b"stats\r\n")
                return b"STAT pid %d\r\n" % self.pid in connection.recv(65_536)
        except OSError:
            return False
