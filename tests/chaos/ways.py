"""Ways by which clients reach the servers, and what their URL is then."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DRIVERS = {"postgresql": ("psycopg", "psycopg"), "mysql": ("pymysql", "aiomysql")}
"""For threads and for asyncio."""


@dataclass(frozen=True)
class Way:
    """How clients reach the servers.

    family: "postgresql" or "mysql". hosts: "host:port" of the URL, several for candidates.
    leads_to: returns the "host:port" that an operator's DNS record would lead to now, for clients
    that are given no candidates: the best case for them, no answer is ever out of date.
    dns: the server that knows the names. endpoint: datakit's option. lookup: address of a name.
    """

    family: str
    hosts: tuple[str, ...]
    leads_to: Callable[[], str]
    dns: str | None = None
    endpoint: str = "auto"
    lookup: Callable[[str], str] = field(default=lambda name: name)

    @property
    def drivers(self) -> tuple[str, str]:
        """SQLAlchemy's names of the drivers for threads and for asyncio."""
        return DRIVERS[self.family]

    def url(self, driver: str, **query: str) -> str:
        """Return the URL for SQLAlchemy."""
        rest = "&".join(f"{name}={value}" for name, value in query.items())
        if len(self.hosts) == 1:
            return f"{self.family}+{driver}://app@{self.hosts[0]}/app?{rest}".rstrip("?")
        hosts = "&".join(f"host={host}" for host in self.hosts)
        return f"{self.family}+{driver}://app@/app?{hosts}&{rest}".rstrip("&")

    def follow(self, keywords: dict[str, Any]) -> None:
        """Let a driver's keywords lead where the record does."""
        host, _, port = self.leads_to().rpartition(":")
        keywords["host"], keywords["port"] = host, int(port)
