import subprocess
import sys

import pytest

import datakit.testing


def test_every_public_name_can_be_had() -> None:
    """What __all__ promises is there and says where it lives."""
    for name in datakit.testing.__all__:
        home = getattr(datakit.testing, name).__name__
        assert home.removeprefix("datakit.testing.") == name
    assert set(datakit.testing.__all__) <= set(dir(datakit.testing))


def test_unknown_name_is_an_attribute_error() -> None:
    """A typing mistake is reported as by any module."""
    with pytest.raises(AttributeError, match="Postgre"):
        getattr(datakit.testing, "Postgre")  # noqa: B009 - unknown to the type checkers


def test_import_loads_nothing() -> None:
    """The package costs nothing before one of its names is used."""
    code = (
        "import sys, datakit.testing;"
        "assert not {'dns', 'asyncio', 'subprocess', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
