"""A cluster whose owner is killed while it is being made leaves nothing, shared memory included."""

import subprocess
import sys
import time
from pathlib import Path

STARTS = "from datakit.testing import PostgresCluster; print(flush=True); PostgresCluster().start()"


def shared_memory() -> set[str]:
    files = {path.name for path in Path("/dev/shm").glob("PostgreSQL.*")}
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return files | {"segment " + line.split()[1] for line in segments}


def test_killed_at_any_moment_of_initdb() -> None:
    """initdb tries out every kind of shared memory, and its trials are killed with it."""
    before = shared_memory()
    for wait in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        owner = subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE)
        assert owner.stdout is not None
        owner.stdout.readline()
        time.sleep(wait)
        owner.kill()
        owner.communicate()
    until = time.monotonic() + 20
    while shared_memory() - before and time.monotonic() < until:
        time.sleep(0.1)
    assert shared_memory() - before == set()
