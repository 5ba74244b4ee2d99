"""The data directory of a new MariaDB, made once in a process and copied for every server."""

import os
import shutil
from pathlib import Path
from threading import Lock

from datakit.testing._account import give
from datakit.testing._binaries import MariadbPrograms
from datakit.testing._mariadb_config import STORAGE
from datakit.testing._run_directory import RunDirectory

_lock = Lock()
_templates: dict[tuple[int, MariadbPrograms], RunDirectory] = {}
"""By process: a forked child must not rely on what goes with its parent."""


def make_data(target: Path, programs: MariadbPrograms, run: RunDirectory) -> None:
    """Make a data directory whose only account is `root`, without password, on this machine.

    Raises:
        RuntimeError: mariadb-install-db failed; the message holds its output.
    """
    shutil.copytree(_template(programs).path / "data", target)
    give(target, run.account)


def _template(programs: MariadbPrograms) -> RunDirectory:
    key = os.getpid(), programs
    with _lock:
        if key not in _templates:
            _templates[key] = _install(programs)
        return _templates[key]


def _install(programs: MariadbPrograms) -> RunDirectory:
    run = RunDirectory()
    try:
        run.run([
            programs.install, "--no-defaults", f"--datadir={run.path / 'data'}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
            *STORAGE,
        ])  # fmt: skip
    except BaseException:
        run.close()
        raise
    return run
