"""Engines of both kinds, and credentials whose tokens a test can tell in advance."""

from collections.abc import Iterator

import pytest
from tests.integration.db.conftest import kind, opened

from datakit.auth.credentials import Credentials
from datakit.testing import DnsServer, MariadbServer, PostgresCluster, PostgresNode

__all__ = ["kind", "opened"]

NAME = "db.shop.internal"
WALL = 1_700_000_000.0
Server = PostgresNode | MariadbServer


class Source:
    """Credentials one after the other: the next when the last were refused."""

    blocking = False

    def __init__(self, *credentials: Credentials) -> None:
        self.credentials = list(credentials)
        self.forgotten = 0

    def load(self) -> Credentials:
        return self.credentials[0]

    def forget(self) -> None:
        self.forgotten += 1
        if len(self.credentials) > 1:
            self.credentials.pop(0)


def without_password(server: Server, host: str | None = None) -> str:
    """Return the server's URL, by another host if one is given."""
    scheme = server.url().partition("://")[0]
    return f"{scheme}://{server.user}@{host or server.address}:{server.port}/{server.database}"


@pytest.fixture(params=["postgresql", "mariadb"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def both_servers(password: str) -> Iterator[dict[str, Server]]:
    """Yield one of each family with TLS and `password`."""
    with (
        PostgresCluster(standbys=0, tls=True, password=password) as cluster,
        MariadbServer(tls=True, password=password) as mariadb,
    ):
        yield {"postgresql": cluster.primary, "mariadb": mariadb}


def point(dns_server: DnsServer, address: str, *names: str) -> list[str]:
    """Send the names to `address`; return the DNS servers to ask."""
    for name in names or (NAME,):
        dns_server.set(name, "A", [address])
    return [dns_server.endpoint]
