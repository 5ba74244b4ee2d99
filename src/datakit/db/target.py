"""Where an engine connects to, and how."""

from typing import NamedTuple

from datakit.auth import PasswordAuth, Tls
from datakit.db.drivers import Driver
from datakit.db.endpoint import Endpoint, instances_of
from datakit.dns import Address


class Candidate(NamedTuple):
    """A server that may be the one: the name for TLS and tokens, and where it is."""

    host: str
    ip: str
    port: int

    @property
    def place(self) -> Address:
        """Its address and port: what it is known by, whatever name led there."""
        return Address(self.ip, self.port)


class Target(NamedTuple):
    """What there is to know of it before the first connection.

    hosts: names and ports, the first of which stands for all in messages.
    tls: None for the default, verified off loopback.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str
    endpoint: Endpoint
    driver: Driver
    tls: Tls | None = None
    auth: PasswordAuth | None = None

    @property
    def host(self) -> str:
        """The first host."""
        return self.hosts[0][0]

    @property
    def port(self) -> int:
        """The first host's port."""
        return self.hosts[0][1]

    @property
    def fallback(self) -> tuple[str, int] | None:
        """The writer's host and port, for when no reader is left."""
        host = self.endpoint.fallback
        return None if host is None else (host, self.port)

    @property
    def instances(self) -> str | None:
        """The host name of its cluster's instances, "?" for the id; None if it is not known."""
        return self.endpoint.instances or instances_of(self.host)
