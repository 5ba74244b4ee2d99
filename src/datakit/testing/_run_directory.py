"""A temporary directory with servers in it; both end together, however this process ends."""

import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datakit.errors import ConfigError
from datakit.testing import _guard, _reaper
from datakit.testing._account import Account, can_execute, give, server_account

_INHERITED = ("PATH", "LD_LIBRARY_PATH")


class ServerProcess:
    """A server and all the processes it made. `directory` is the one it works in."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, started: int) -> None:
        self.pid = process.pid
        self._process = process
        self._directory = str(directory)
        self._roots = {process.pid: started}

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped and could run on."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL all of it; return when it is dead."""
        _reaper.kill(self._directory, self._roots)
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP all of it, the parents first so that none starts another child."""
        for _ in range(2):  # the second finds what was forked during the first
            _reaper.send(_reaper.members(self._directory, self._roots), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT all of it."""
        _reaper.send(reversed(_reaper.members(self._directory, self._roots)), signal.SIGCONT)


class RunDirectory:
    """`datakit-...` below the system's temporary directory, for one server or several.

    Raises:
        ConfigError: we are root and the servers' account cannot get there.
    """

    def __init__(self) -> None:
        self.account = server_account()
        self._owner = os.getpid()
        self._roots: dict[int, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        parent = Path(tempfile.gettempdir()).resolve()
        if not can_execute(parent, self.account):
            raise ConfigError(
                f"servers run as 'nobody', who cannot enter {parent}: set TMPDIR to a directory "
                "that everybody may enter"
            )
        self.path = parent / f"datakit-{secrets.token_hex(8)}"
        _guard.watch(self.path)  # first, since we may end at any moment
        self.path.mkdir(0o700)
        give(self.path, self.account)

    def run(self, argv: Sequence[str | Path]) -> None:
        """Run a program to its end, in this directory and under the servers' account.

        Raises:
            RuntimeError: it failed; the message holds its output.
        """
        user, group, extra_groups = _ids(self.account)
        done = subprocess.run(  # noqa: S603 - our own arguments
            argv,
            cwd=self.path,
            env=_environment(self.path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=extra_groups,
        )
        if done.returncode:
            output = done.stdout.decode(errors="replace").strip()
            raise RuntimeError(f"{Path(argv[0]).name} failed ({done.returncode}): {output}")

    def spawn(self, argv: Sequence[str | Path], *, cwd: Path, log: Path) -> ServerProcess:
        """Start a server that works in `cwd` and writes to the file `log`."""
        user, group, extra_groups = _ids(self.account)
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own arguments
                argv,
                cwd=cwd,
                env=_environment(self.path),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it
                user=user,
                group=group,
                extra_groups=extra_groups,
            )
        entry = _reaper.process(process.pid)
        assert entry is not None, "it is there until we wait for it"
        self._roots[process.pid] = entry.started
        self._processes.append(process)
        _guard.watch_server(self.path, process.pid, entry.started)
        return ServerProcess(process, cwd, entry.started)

    def close(self) -> None:
        """Kill every server in it and remove it. A forked child leaves both to its parent."""
        if os.getpid() != self._owner:
            return
        _reaper.clean(str(self.path), self._roots)
        for process in self._processes:
            process.wait()
        _guard.forget(self.path)


def _ids(account: Account | None) -> tuple[int | None, int | None, list[int] | None]:
    return (None, None, None) if account is None else (account.uid, account.gid, [])


def _environment(temporary: Path) -> dict[str, str]:
    """Only what finds programs and libraries: PGDATA and its kind must not reach a server.

    temporary: where a server that is killed may leave its temporary files.
    """
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", "TMPDIR": str(temporary)}
