"""What the servers have in common that keep their data in memory alone."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from datakit.errors import ConfigError
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._server import Killable
from datakit.testing._with_block import WithBlock


class MemoryServer(Killable, WithBlock):
    """One process on a loopback port; what it holds ends with it."""

    def __init__(self, address: str, port: int | None) -> None:
        self.address = address
        self._wanted_port = port
        self._port = port or 0
        self._run: RunDirectory | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address}:{self._port})"

    @property
    def port(self) -> int:
        """Its TCP port; 0 before the first start."""
        return self._port

    def start(self) -> Self:
        """Start it; return itself when it takes connections.

        Raises:
            ConfigError: it runs already, or its program is not where it is looked for.
            MissingExtraError: the program is not installed.
            RuntimeError: it ended at once; the message holds its log.
        """
        if self._run is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        self._run = run = RunDirectory()
        try:
            self._program = self._find_program(run)
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
        directory = self._run.path
        log = directory / "log"
        argv: list[str | Path] = [self._program, *self._options(directory)]
        self._server = self._run.spawn(argv, cwd=directory, log=log)
        self._await_start(lambda: self._is_ready(log), log)

    @abstractmethod
    def _find_program(self, run: RunDirectory) -> Path:
        """Return a program that may run in `run`."""

    @abstractmethod
    def _options(self, directory: Path) -> Sequence[str]:
        """Return its command line for the current port."""

    @abstractmethod
    def _is_ready(self, log: Path) -> bool:
        """Return whether it takes connections."""
