"""A cold Lambda process, its invocations, its forks and its snapshots, each in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

from datakit.testing import PostgresNode

PID = 'from sqlalchemy import text\nPID = text("SELECT pg_backend_pid()")\n'

SYNC = PID + (
    "from datakit.aws_lambda import handler, lambda_engine\n"
    "import sys\n"
    "engine = lambda_engine(sys.argv[1], auth=None)\n"
    "def backend():\n"
    "    with engine.connect() as conn:\n"
    "        return conn.scalar(PID)\n"
)

ASYNC = PID + (
    "from datakit.aws_lambda import handler, lambda_async_engine\n"
    "import sys\n"
    "engine = lambda_async_engine(sys.argv[1], auth=None)\n"
    "@handler\n"
    "async def handle(event, context):\n"
    "    async with engine.connect() as conn:\n"
    "        return await conn.scalar(PID)\n"
    "@handler\n"
    "async def close(event, context):\n"
    "    await engine.dispose()\n"
)

SNAPSHOTS = """
before, after = [], []

def register_before_snapshot(func, *args, **kwargs):
    before.append((func, args, kwargs))

def register_after_restore(func, *args, **kwargs):
    after.append((func, args, kwargs))

def run(hooks):
    for func, args, kwargs in hooks:
        func(*args, **kwargs)
"""
"""Stands in for AWS's own, which is on Lambda alone."""

CONTEXT = """
class Context:
    def get_remaining_time_in_millis(self):
        return 1_000
"""


def run(code: str, node: PostgresNode, *, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    command = [sys.executable, "-W", "error", "-c", code, node.url()]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_cold_process_loads_nothing_heavy_up_to_its_first_query(postgres: PostgresNode) -> None:
    code = "backend(); import threading; print(threading.active_count(), *sys.modules)"
    threads, *modules = run(f"{SYNC}{code}; engine.dispose()", postgres).split()
    unwanted = {
        "dns", "botocore", "boto3", "redis", "tenacity", "msgspec", "greenlet", "pymysql",
        "datakit.cache", "datakit.dns.resolver", "datakit.auth.rds",
        "sqlalchemy.orm", "sqlalchemy.ext.asyncio",
    }  # fmt: skip
    assert "psycopg" in modules
    assert not unwanted & set(modules)
    assert threads == "1"


def test_an_asyncio_process_loads_no_resolver_up_to_its_first_query(
    postgres: PostgresNode,
) -> None:
    code = "handle({}, None); print(*sys.modules); close({}, None)\n"
    modules = set(run(f"{ASYNC}{code}", postgres).split())
    assert not {"dns", "botocore", "redis", "tenacity", "datakit.cache"} & modules


def test_the_resolver_takes_over_when_an_address_failed(postgres: PostgresNode) -> None:
    code = (
        "from datakit import deadline, events\n"
        "from datakit.errors import DeadlineExceededError\n"
        "url = sys.argv[1].replace('@127.0.0.', '@127.0.1.')\n"
        "engine = lambda_engine(url, auth=None)\n"
        "try:\n"
        "    with deadline(1.0): backend()\n"
        "except DeadlineExceededError as exc: assert 'refused' in str(exc), exc\n"
        "assert 'datakit.dns.resolver' in sys.modules\n"
    )
    run(f"{SYNC}{code}", postgres)


def test_the_next_invocation_finds_the_connection_again(postgres: PostgresNode) -> None:
    run(f"{SYNC}assert backend() == backend(); engine.dispose()", postgres)


def test_asynchronous_invocations_share_a_loop_and_its_pool(postgres: PostgresNode) -> None:
    code = "assert handle({}, None) == handle({}, None); close({}, None)"
    run(f"{ASYNC}{code}", postgres)


def test_a_statement_ends_before_lambda_ends_the_handler(postgres: PostgresNode) -> None:
    code = (
        "import time\n"
        "from datakit.errors import DeadlineExceededError\n"
        "def sleep(event, context):\n"
        "    with engine.connect() as conn: conn.execute(text('SELECT pg_sleep(20)'))\n"
        "async def sleep_async(event, context):\n"
        "    async with aengine.connect() as conn:\n"
        "        await conn.execute(text('SELECT pg_sleep(20)'))\n"
        "from datakit.aws_lambda import lambda_async_engine\n"
        "aengine = lambda_async_engine(sys.argv[1], auth=None)\n"
        "for function in (sleep, sleep_async):\n"
        "    began = time.monotonic()\n"
        "    try: handler(function)({}, Context())\n"
        "    except DeadlineExceededError: pass\n"
        "    else: raise AssertionError('it ended well')\n"
        "    assert 0.4 < time.monotonic() - began < 10\n"
        "engine.dispose()\n"
        "async def close(event, context): await aengine.dispose()\n"
        "handler(close)({}, None)\n"
    )
    run(f"{CONTEXT}{SYNC}{code}", postgres)


def test_a_forked_child_takes_connections_of_its_own(postgres: PostgresNode) -> None:
    code = (
        "import os\n"
        "pid = backend()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert lambda_engine(sys.argv[1], auth=None) is engine\n"
        "    os._exit(0 if backend() != pid else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert backend() == pid\n"
        "engine.dispose()\n"
    )
    run(f"{SYNC}{code}", postgres)


def test_a_forked_child_runs_a_loop_of_its_own(postgres: PostgresNode) -> None:
    code = (
        "import os\n"
        "pid = handle({}, None)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if handle({}, None) != pid else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert handle({}, None) == pid\n"
        "close({}, None)\n"
    )
    run(f"{ASYNC}{code}", postgres)


def test_a_snapshot_holds_no_connection(postgres: PostgresNode, tmp_path: Path) -> None:
    (tmp_path / "snapshot_restore_py.py").write_text(SNAPSHOTS)
    code = (
        "import snapshot_restore_py as snapshots\n"
        "pid = backend()\n"
        "snapshots.run(snapshots.before)\n"
        "assert engine.pool.checkedin() == 0\n"
        "snapshots.run(snapshots.after)\n"
        "assert backend() != pid\n"
        "engine.dispose()\n"
        "assert len(snapshots.before) == len(snapshots.after) == 1\n"
    )
    run(f"{SYNC}{code}", postgres, path=tmp_path)


def test_a_snapshot_holds_no_asyncio_connection(postgres: PostgresNode, tmp_path: Path) -> None:
    (tmp_path / "snapshot_restore_py.py").write_text(SNAPSHOTS)
    code = (
        "import snapshot_restore_py as snapshots\n"
        "pid = handle({}, None)\n"
        "snapshots.run(snapshots.before)\n"
        "assert engine.pool.checkedin() == 0\n"
        "snapshots.run(snapshots.after)\n"
        "assert handle({}, None) != pid\n"
        "close({}, None)\n"
    )
    run(f"{ASYNC}{code}", postgres, path=tmp_path)
