"""What a test may do to every server here."""

from collections.abc import Callable
from pathlib import Path

from datakit.errors import ConfigError
from datakit.testing._ports import PortTakenError
from datakit.testing._run_directory import ServerProcess
from datakit.testing._wait import until


class Killable:
    """A server process and all that it forked."""

    _server: ServerProcess | None = None

    @property
    def pid(self) -> int:
        """Its process, of several the first.

        Raises:
            ConfigError: it was not started.
        """
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether its process exists, stopped or not."""
        return self._server is not None and self._server.alive

    def kill(self) -> None:
        """SIGKILL all its processes at once, as a crashed machine would."""
        self._running().kill()

    def stop_process(self) -> None:
        """SIGSTOP all its processes: connections stay open and nothing answers."""
        self._running().stop()

    def resume_process(self) -> None:
        """SIGCONT all its processes."""
        self._running().resume()

    def _await_start(self, ready: Callable[[], bool], log: Path) -> None:
        """Wait until it is ready.

        Raises:
            PortTakenError, RuntimeError: it ended; the message holds its log.
            TimeoutError: it was not ready within 30 s.
        """
        until(lambda: ready() or not self.alive, f"start of {self!r}")
        if not self.alive:
            text = log.read_text(errors="replace")
            kind = PortTakenError if "Address already in use" in text else RuntimeError
            raise kind(f"{self!r} did not start: {text.strip()}")

    def _running(self) -> ServerProcess:
        if self._server is None:
            raise ConfigError(f"{self!r} is not running: start() it, or use it in a with block")
        return self._server
