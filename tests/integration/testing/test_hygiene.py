"""Nothing is left behind, however the process that started the servers ends."""

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datakit.testing import PostgresCluster, RedisServer, _account, _reaper

SCRIPT = """
import json, os, signal, sys, time
from datakit.testing import MariadbServer, PostgresCluster, RedisServer, _guard, _mariadb_data

def segments():
    return [int((n._data / "postmaster.pid").read_text().split("\\n")[6].split()[1])
            for n in cluster.nodes]

cluster, redis = PostgresCluster().start(), RedisServer().start()
mariadb = MariadbServer().start()
roots = [n.pid for n in cluster.nodes] + [redis.pid, mariadb.pid]
runs = [cluster._run, redis._run, mariadb._run, *_mariadb_data._templates.values()]
print(json.dumps({
    "pids": [*roots, _guard._watcher.pid],
    "directories": [str(run.path) for run in runs],
    "segments": segments(),
    "uids": [os.stat(f"/proc/{pid}").st_uid for pid in roots],
}), flush=True)
"""
WAITS = "\ntime.sleep(600)\n"
PATIENCE = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def interpreter_for(user: str | None) -> str:
    """This interpreter, or the system's of the same version where the user cannot enter ours."""
    if user is None:
        return sys.executable
    entry = pwd.getpwnam(user)
    account = _account.Account(entry.pw_uid, entry.pw_gid)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.executable), Path("/usr/bin") / name):
        if path.exists() and _account.can_execute(path, account):
            return str(path)
    raise RuntimeError(f"{user} can run no {name}: apt-get install {name}")


class Owner:
    """A process that has started one of each. `pids` are all that these consist of."""

    def __init__(self, rest: str = WAITS, *, user: str | None = None) -> None:
        self.process = subprocess.Popen(
            [interpreter_for(user), "-c", SCRIPT + rest],
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )
        assert self.process.stdout is not None
        report = json.loads(self.process.stdout.readline())
        self.uids: list[int] = report["uids"]
        self.directories = [Path(path) for path in report["directories"]]
        self.segments: list[int] = report["segments"]
        roots = {p.pid: p.started for p in map(_reaper.process, report["pids"]) if p}
        self.processes = _reaper.members("/none", roots)

    def is_gone(self) -> bool:
        return not any(is_living(p) for p in self.processes) and not any(
            d.exists() for d in self.directories
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def is_living(p: _reaper.Process) -> bool:
    now = _reaper.process(p.pid)
    return now is not None and now.living and now.started == p.started


def segments() -> set[int]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(line.split()[1]) for line in lines}


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_owner_is_ended(owner: Owner, number: int) -> None:
    """A signal to the owner ends servers, watcher, directories and memory segments."""
    assert len(owner.processes) > 10
    assert all(map(is_living, owner.processes))
    assert set(owner.segments) <= segments()
    owner.process.send_signal(number)
    owner.process.wait()
    wait_for(owner.is_gone)
    assert not set(owner.segments) & segments()


def test_stopped_servers_are_ended_too(owner: Owner) -> None:
    """Servers in SIGSTOP do not outlive a killed owner."""
    _reaper.send((p for p in owner.processes if "python" not in p.command), signal.SIGSTOP)
    owner.process.kill()
    wait_for(owner.is_gone)


def test_watcher_survives_the_signals_of_a_terminal(owner: Owner) -> None:
    """Signals to the watcher itself do not stop it from doing its work."""
    watcher = next(p for p in owner.processes if "python" in p.command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(watcher.pid, number)
    owner.process.kill()
    wait_for(owner.is_gone)


def test_interpreter_exit_ends_everything() -> None:
    """A script that forgets to close leaves nothing once it has ended."""
    owner = Owner(rest="\nsys.exit(3)\n")
    assert owner.process.wait(PATIENCE) == 3
    assert owner.is_gone()
    owner.close()


def test_forked_child_neither_ends_nor_keeps_the_servers() -> None:
    """A fork may exit first without harm, and a fork that lives on keeps nothing alive."""
    rest = """
child = os.fork()
if not child:
    cluster.close()
    mariadb.close()
    sys.exit(0)
os.waitpid(child, 0)
assert cluster.primary.alive and redis.alive and mariadb.alive
child = os.fork()
if not child:
    os.close(1)
    time.sleep(20)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    owner = Owner(rest)
    assert owner.process.stdout is not None
    child = int(owner.process.stdout.readline())
    owner.process.wait(PATIENCE)
    wait_for(owner.is_gone)
    os.kill(child, signal.SIGKILL)
    owner.close()


def test_works_as_a_normal_user() -> None:
    """Without root the servers run as the user; with root as nobody; neither leaves a thing."""
    user = "nobody" if os.geteuid() == 0 else None
    owner = Owner(user=user)
    uid = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    assert set(owner.uids) == {uid}
    owner.process.kill()
    wait_for(owner.is_gone)
    owner.close()


def test_close_removes_all_and_leaves_others_alone() -> None:
    """Closing one server ends its processes and directory, not another server's."""
    with RedisServer() as other:
        with PostgresCluster(standbys=0) as cluster:
            run = cluster._run
            assert run is not None
            entry = _reaper.process(cluster.primary.pid)
            assert entry is not None
            tree = _reaper.members("/none", {entry.pid: entry.started})
            assert len(tree) > 3
        assert not any(map(is_living, tree))
        assert not run.path.exists()
        assert other.alive
        cluster.close()


def test_reused_pid_is_spared() -> None:
    """A process with a server's pid that started at another time is not touched."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        entry = _reaper.process(bystander.pid)
        assert entry is not None
        _reaper.kill("/none", {entry.pid: entry.started + 1})
        assert bystander.poll() is None
        _reaper.kill("/none", {entry.pid: entry.started})
        assert bystander.wait() == -signal.SIGKILL


def test_servers_run_neither_as_root_nor_in_the_terminals_session(owner: Owner) -> None:
    """Root's servers belong to an unprivileged account, and Ctrl-C does not reach them."""
    assert 0 not in owner.uids
    sessions = {os.getsid(p.pid) for p in owner.processes}
    assert os.getsid(owner.process.pid) not in sessions
    owner.process.kill()
    wait_for(owner.is_gone)
