"""A cluster whose owner is killed while it is being made leaves nothing, shared memory included."""

import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from datakit.testing import _reaper
from datakit.testing._wait import until

STARTS = "from datakit.testing import PostgresCluster; print(flush=True); PostgresCluster().start()"


def unused_shared_memory() -> set[str]:
    """Return what no process has in use: other servers may come and go meanwhile."""
    mapped = set()
    for path in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it ended meanwhile
            mapped.update(
                re.findall(r"/dev/shm/(PostgreSQL\.\d+)", path.read_text(errors="replace"))
            )
    files = {path.name for path in Path("/dev/shm").glob("PostgreSQL.*")} - mapped
    segments = map(str.split, Path("/proc/sysvipc/shm").read_text().splitlines()[1:])
    return files | {f"segment {fields[1]}" for fields in segments if fields[6] == "0"}


def test_killed_at_any_moment_of_initdb() -> None:
    """initdb tries out every kind of shared memory, and its trials are killed with it."""
    before = unused_shared_memory()
    killed: list[_reaper.Process] = []
    for wait in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        owner = subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE)
        assert owner.stdout is not None
        owner.stdout.readline()
        time.sleep(wait)
        entry = _reaper.process(owner.pid)
        assert entry is not None
        killed += _reaper.members("/none", {entry.pid: entry.started})
        owner.kill()
        owner.communicate()
    until(lambda: not any(map(is_living, killed)), "end of all, and of the watchers at last")
    left = unused_shared_memory() - before
    give_up = time.monotonic() + 20
    while left and time.monotonic() < give_up:  # what others are about to use or to remove
        time.sleep(0.1)
        left &= unused_shared_memory()
    assert left == set()


def is_living(p: _reaper.Process) -> bool:
    now = _reaper.process(p.pid)
    return now is not None and now.living and now.started == p.started
