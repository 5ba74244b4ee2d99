"""The package's front door: what it exports and what importing it loads."""

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import datakit
from datakit import errors

PUBLIC = {
    "create_engine", "create_async_engine", "transaction", "run_transaction", "classify",
    "Cache", "cached", "Resolver", "AsyncResolver", "RetryPolicy", "RetryBudget",
    "CircuitBreaker", "Bulkhead", "deadline", "attach",
    "IamAuth", "SecretAuth", "ElastiCacheIam", "Tls",
    "errors", "events",
}  # fmt: skip


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    run = [sys.executable, "-I", "-c", code]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_datakit_and_nothing_else() -> None:
    assert modules_loaded_by("import datakit") == {"datakit"}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("from datakit import errors, events", {"sqlalchemy", "redis", "dns", "asyncio"}),
        ("from datakit import Resolver", {"dns", "sqlalchemy", "redis", "tenacity"}),
        ("from datakit import RetryPolicy", {"tenacity", "asyncio", "sqlalchemy"}),
        ("from datakit import Cache", {"redis", "sqlalchemy", "dns", "tenacity"}),
        ("from datakit import create_engine", {"redis", "dns", "tenacity", "psycopg", "pymysql"}),
        (
            "from datakit import create_engine",
            {"sqlalchemy.orm", "greenlet", "datakit.dns.resolver"},
        ),
        ("from datakit.auth import rds_token", {"botocore", "sqlalchemy", "dns", "tenacity"}),
        ("import datakit.cli", {"typer", "rich", "sqlalchemy", "redis", "dns"}),
    ],
)
def test_a_part_loads_none_of_the_heavy_modules_it_may_never_need(
    statement: str, unwanted: set[str]
) -> None:
    assert not modules_loaded_by(statement) & unwanted


def test_public_names_are_exactly_these() -> None:
    assert set(datakit.__all__) == PUBLIC
    assert all(getattr(datakit, name) is not None for name in PUBLIC)


@pytest.mark.parametrize(
    "package", ["", ".cache", ".testing", ".db", ".dns", ".auth", ".resilience"]
)
def test_the_reference_lists_every_public_name(package: str) -> None:
    reference = Path(__file__).parents[2] / "docs" / "api.md"
    listed = {line.rpartition(".")[2] for line in reference.read_text().splitlines()}
    assert set(import_module(f"datakit{package}").__all__) <= listed


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = datakit.nonsense


@pytest.mark.parametrize(
    "error",
    [kind for kind in vars(errors).values() if isinstance(kind, type)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_survives_pickling(error: type[Exception]) -> None:
    original = error("it failed")
    original.add_note("tried twice")
    copy = pickle.loads(pickle.dumps(original))
    assert (type(copy), str(copy), copy.__notes__) == (error, "it failed", ["tried twice"])


def test_error_attributes_survive_pickling() -> None:
    unknown = errors.CommitUnknownError("lost", token="t-1")
    is_open = errors.CircuitOpenError("open", retry_after=2.5)
    assert pickle.loads(pickle.dumps(unknown)).token == "t-1"
    assert pickle.loads(pickle.dumps(is_open)).retry_after == 2.5
