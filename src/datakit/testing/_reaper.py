"""End server processes and remove what they leave behind.

Imported by the owner of the servers, and run by it as a program of its own (see `main`) that
does the same work when the owner was killed. So it imports nothing beyond the standard library.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

COMMANDS = frozenset({
    "postgres", "initdb", "pg_basebackup", "redis-server", "mariadbd", "mariadb-install"
})  # fmt: skip
"""Only these count as ours by their working directory: a developer's shell may stand there too.

The kernel keeps 15 characters of a name. Source: proc_pid_comm(5).
"""

_DEATH_TIMEOUT = 10.0
_IPC_RMID = 0


class Process(NamedTuple):
    """One line of the process table. `started` (clock ticks since boot) tells a reused pid."""

    pid: int
    command: str
    state: str
    parent: int
    started: int

    @property
    def living(self) -> bool:
        """Whether it is more than an entry that its parent has yet to collect."""
        return self.state not in "ZX"


def process(pid: int) -> Process | None:
    """Return what the kernel knows of `pid`, None when there is none. Source: proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    command = before.partition("(")[2]
    return Process(pid, command, fields[0], int(fields[1]), int(fields[19]))


def members(directory: str, roots: Mapping[int, int]) -> list[Process]:
    """Return the living processes of the servers in `directory`, parents before children.

    roots: pid and start of each server. Their descendants belong to them, whatever session these
    made for themselves; an orphan is known by its working directory.
    """
    table = [p for p in _table() if p.living]
    children: dict[int, list[Process]] = {}
    for p in table:
        children.setdefault(p.parent, []).append(p)
    found = {p.pid: p for p in table if roots.get(p.pid) == p.started or _is_in(p, directory)}
    queue = list(found.values())
    for p in queue:
        for child in children.get(p.pid, ()):
            if child.pid not in found:
                found[child.pid] = child
                queue.append(child)
    return queue


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each of them that still lives."""
    for p in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(p.pid, number)


def kill(directory: str, roots: Mapping[int, int]) -> None:
    """SIGKILL the servers in `directory` with all their children; return when they are dead.

    Raises:
        TimeoutError: some outlived it by 10 s.
    """
    give_up = time.monotonic() + _DEATH_TIMEOUT
    killed: set[int] = set()
    shared: set[Path] = set()
    send((p for p in members(directory, roots) if p.pid in roots), signal.SIGSTOP)  # no more forks
    while found := members(directory, roots):
        if time.monotonic() > give_up:
            raise TimeoutError(f"still alive after SIGKILL: {found}")
        send(found, signal.SIGSTOP)  # so that none makes another file behind our back
        killed.update(p.pid for p in found)
        shared.update(path for p in found for path in _shared_files(p.pid))
        send(found, signal.SIGKILL)
        time.sleep(0.002)
    _remove_shared_memory(killed, shared)


def _shared_files(pid: int) -> Iterable[Path]:
    """Return the POSIX shared memory of PostgreSQL that `pid` maps, or has made and not mapped yet.

    Source: proc_pid_maps(5), proc_pid_fd(5).
    """
    names: list[str] = []
    with contextlib.suppress(OSError):  # it ended meanwhile
        names += Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    with contextlib.suppress(OSError):
        names += [f" {os.readlink(entry)}" for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115
    for line in names:
        _, found, name = line.partition(" /dev/shm/PostgreSQL.")
        if found and name.isdecimal():
            yield Path(f"/dev/shm/PostgreSQL.{name}")  # noqa: S108 - named by the kernel


def _remove_shared_memory(killed: set[int], shared: set[Path]) -> None:
    """Remove what the killed processes shared: initdb tries out every kind, whatever is set."""
    for path in shared:
        with contextlib.suppress(OSError):
            path.unlink()
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        _, segment, _, _, creator, _, attached, *_ = map(int, line.split()[:7])
        if creator in killed and attached == 0:
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def remove_segment(data: Path) -> None:
    """Remove the System V segment that a killed PostgreSQL left, and the file that names it.

    Source: PostgreSQL, src/include/utils/pidfile.h: line 7 of postmaster.pid is "key id".
    """
    lock_file = data / "postmaster.pid"
    with contextlib.suppress(OSError, IndexError, ValueError):
        key, segment = map(int, lock_file.read_text().splitlines()[6].split())
        if _segment_is_unused(key, segment):
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
    lock_file.unlink(missing_ok=True)


def clean(directory: str, roots: Mapping[int, int]) -> None:
    """Kill the servers in `directory`, then remove it and their segments."""
    try:
        kill(directory, roots)
    finally:
        for lock_file in Path(directory).glob("*/postmaster.pid"):
            remove_segment(lock_file.parent)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Clean up for the process at the other end of stdin, as soon as that end closes.

    Each line is a JSON list: ["directory", path], ["server", path, pid, started] or
    ["forget", path]. The kernel closes the pipe however the owner ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[str, dict[int, int]] = {}
    for line in sys.stdin:
        match json.loads(line):
            case ["directory", path]:
                watched[path] = {}
            case ["server", path, pid, started]:
                watched[path][pid] = started
            case ["forget", path]:
                watched.pop(path, None)
            case other:
                raise ValueError(f"no such message: {other!r}")
    for path, roots in watched.items():
        with contextlib.suppress(TimeoutError):
            clean(path, roots)


def _table() -> Iterable[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, without an object for each
        if name.isdecimal() and (p := process(int(name))):
            yield p


def _is_in(p: Process, directory: str) -> bool:
    if p.command not in COMMANDS:
        return False
    try:
        where = os.readlink(f"/proc/{p.pid}/cwd")  # noqa: PTH115 - it may be gone: "... (deleted)"
    except OSError:
        return False
    return f"{where}/".startswith(f"{directory}/")


def _segment_is_unused(key: int, segment: int) -> bool:
    """Whether it exists under that key with nobody attached. Source: sysvipc(7)."""
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[0]) == key and int(fields[1]) == segment:
            return int(fields[6]) == 0
    return False


if __name__ == "__main__":
    main()
