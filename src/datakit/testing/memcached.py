"""A memcached of one's own."""

import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from datakit.errors import ConfigError
from datakit.testing._ports import PortTakenError, launch_on_free_port
from datakit.testing._run_directory import RunDirectory, ServerProcess
from datakit.testing._wait import until

_START_TIMEOUT = 30.0
_ADMIN_PATH = "/usr/sbin:/usr/bin"  # not in every user's PATH


class MemcachedServer:
    """One memcached on a loopback port, for as long as the `with` block. It is the system's.

    address, port: where it listens; a free port when none is given.
    megabytes: its memory; the least recently used items go when it is full.
    """

    def __init__(
        self, *, address: str = "127.0.0.1", port: int | None = None, megabytes: int = 64
    ) -> None:
        self.address = address
        self._wanted_port = port
        self._port = port or 0
        self._megabytes = megabytes
        self._run: RunDirectory | None = None
        self._server: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"MemcachedServer({self.address}:{self._port})"

    @property
    def port(self) -> int:
        """Its TCP port; 0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """`memcached://address:port`."""
        return f"memcached://{self.address}:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether its process exists, stopped or not."""
        return self._server is not None and self._server.alive

    def start(self) -> Self:
        """Start it; return itself when it takes connections.

        Raises:
            ConfigError: it runs already, or no memcached is installed.
            RuntimeError: it ended at once; the message holds its log.
        """
        if self._run is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        self._run = RunDirectory()
        try:
            launch_on_free_port(self._launch, [self.address], self._wanted_port)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill it and remove its directory. Closing twice is fine."""
        if self._run is not None:
            self._run.close()
            self._run = self._server = None

    def kill(self) -> None:
        """SIGKILL it, as a crashed machine would; its data is lost."""
        self._running().kill()

    def stop_process(self) -> None:
        """SIGSTOP it: connections stay open and nothing answers."""
        self._running().stop()

    def resume_process(self) -> None:
        """SIGCONT it."""
        self._running().resume()

    def restart(self) -> None:
        """Kill it if it is alive and start it, empty, on the same port.

        Raises:
            RuntimeError: it ended at once, as when another program took the port meanwhile.
        """
        self._running().kill()
        launch_on_free_port(self._launch, [self.address], self._port)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, port: int) -> None:
        assert self._run is not None
        self._port = port
        log = self._run.path / "memcached.log"
        limits = ["-m", str(self._megabytes), "-c", "4096"]
        argv: list[str | Path] = [
            _program(),
            "-l",
            self.address,
            "-p",
            str(port),
            "-U",
            "0",
            *limits,
        ]
        server = self._run.spawn(argv, cwd=self._run.path, log=log)
        until(
            lambda: self._accepts() or not server.alive,
            f"start of memcached on {self.address}:{port}",
            timeout=_START_TIMEOUT,
        )
        if not server.alive:
            text = log.read_text(errors="replace").strip()
            kind = PortTakenError if "in use" in text else RuntimeError
            raise kind(f"memcached did not start: {text}")
        self._server = server

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.address, self._port), 1.0).close()
        except OSError:
            return False
        return True

    def _running(self) -> ServerProcess:
        if self._server is None:
            raise ConfigError(f"{self!r} is not running: start() it, or use it in a with block")
        return self._server


def _program() -> Path:
    found = shutil.which("memcached") or shutil.which("memcached", path=_ADMIN_PATH)
    if found is None:
        raise ConfigError("memcached is not installed here: apt-get install memcached")
    return Path(found)
