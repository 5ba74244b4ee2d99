"""The garbage collector rests while a cold process imports, and goes on as it was."""

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from datakit._collector import collector_paused

COLD = """
import gc
passes = []
gc.callbacks.append(lambda phase, info: passes.append(phase))
{before}
import datakit.aws_lambda
from datakit.aws_lambda import lambda_engine
lambda_engine("postgresql+psycopg://app@127.0.0.1/app", auth=None)
import psycopg, sqlalchemy
print(gc.isenabled(), len(passes))
"""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_it_is_afterwards_what_it_was(enabled: bool, fails: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(ZeroDivisionError), collector_paused():
            assert not gc.isenabled()
            assert 1 / (not fails)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("before", ["", "gc.disable()"])
def test_a_cold_lambda_imports_without_it(before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLD.format(before=before)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    enabled, passes = done.stdout.split()
    assert enabled == str(before == "")
    assert int(passes) < 40  # of 260, begin and end counted
