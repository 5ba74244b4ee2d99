"""Ctrl-C or a fork inside a transaction leaves no connection out of the pool or in the way."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Engine, text

import datakit
from datakit import create_engine, transaction
from datakit.testing import PostgresCluster, PostgresNode

PACKAGE = str(Path(datakit.__file__).parent)
SELECT = text("SELECT 1")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresNode]:
    with PostgresCluster(standbys=0, binaries="system") as cluster:
        yield cluster.primary


@pytest.fixture
def engine(postgres: PostgresNode) -> Iterator[Engine]:
    engine = create_engine(postgres.url(), pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


class Interrupt:
    """Raises as a signal's handler does: when that call of datakit's, from 0, begins its work."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.where: str | None = None

    def __call__(self, frame: FrameType, what: str, arg: object) -> Any:
        if self.where is None and what == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self._left -= 1
            if self._left < 0:
                self.where = frame.f_code.co_qualname
                raise KeyboardInterrupt
        return None


def transact(engine: Engine) -> None:
    for tx in transaction(engine):
        with tx as conn:
            conn.execute(SELECT)


def interrupted(engine: Engine, number: int) -> str | None:
    """Return where a transaction was interrupted, None if it ended before."""
    interrupt = Interrupt(number)
    sys.settrace(interrupt)
    try:
        transact(engine)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupt.where


def test_no_step_of_a_transaction_keeps_its_connection(engine: Engine) -> None:
    transact(engine)
    places: list[str] = []
    while (where := interrupted(engine, len(places))) is not None:
        places.append(where)
        gc.collect()
        assert engine.pool.checkedout() == 0, where  # type: ignore[attr-defined]
        transact(engine)
    assert {"Transaction.__enter__", "Transaction.__exit__", "TransactionBase._closed"} <= {*places}


def test_a_child_forked_inside_a_transaction_has_its_own(engine: Engine) -> None:
    for tx in transaction(engine):
        with tx as conn:
            conn.execute(SELECT)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    transact(engine)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            conn.execute(SELECT)
