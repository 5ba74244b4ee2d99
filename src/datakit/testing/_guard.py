"""The watcher that cleans up when this process ends, even by SIGKILL. One for all its servers.

It is started with the first server, holds the read end of a pipe and knows every run directory
and server. When the pipe closes it ends what is left; `_reaper` holds that work.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock

from datakit.testing import _reaper

_EXIT_TIMEOUT = 30.0

_lock = Lock()
_watcher: subprocess.Popen[bytes] | None = None


def watch(directory: Path) -> None:
    """Have `directory`, and what runs in it, removed when this process ends."""
    _tell("directory", str(directory))


def watch_server(directory: Path, pid: int, started: int) -> None:
    """Have the server `pid` and its children ended with `directory`."""
    _tell("server", str(directory), pid, started)


def forget(directory: Path) -> None:
    """Take back `watch`: the directory is gone."""
    _tell("forget", str(directory))


def _tell(*message: str | int) -> None:
    with _lock:
        pipe = _running().stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: close() still cleans
            pipe.write(json.dumps(message).encode() + b"\n")


def _running() -> subprocess.Popen[bytes]:
    global _watcher
    if _watcher is None:
        _watcher = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", _reaper.__file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(_finish)
        os.register_at_fork(after_in_child=_let_go)
    return _watcher


def _finish() -> None:
    """Close the pipe and wait, so that all is gone when the interpreter is."""
    if _watcher is not None and _watcher.stdin is not None:
        _watcher.stdin.close()
        _watcher.wait(_EXIT_TIMEOUT)


def _let_go() -> None:
    """Drop a forked child's copy of the pipe: it would keep the watcher waiting for the child."""
    global _watcher, _lock
    _lock = Lock()
    if _watcher is not None and _watcher.stdin is not None:
        _watcher.stdin.close()
        _watcher.returncode = 0  # not the child's to wait for
        _watcher = None
