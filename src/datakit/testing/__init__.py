"""Clocks, servers and faults with which an application tests itself.

Every server here is a real one on loopback. It ends with its `with` block, with the interpreter,
and also when the process that started it is killed.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datakit.testing import backend_suite
    from datakit.testing.clock import FakeClock
    from datakit.testing.dns import DnsServer
    from datakit.testing.mariadb import MariadbServer
    from datakit.testing.mariadb_cluster import MariadbCluster
    from datakit.testing.mariadb_node import MariadbNode
    from datakit.testing.memcached import MemcachedServer
    from datakit.testing.postgres import PostgresCluster
    from datakit.testing.postgres_node import PostgresNode
    from datakit.testing.proxy import FaultProxy
    from datakit.testing.redis import RedisServer
    from datakit.testing.retries import no_sleep

__all__ = [
    "FakeClock", "no_sleep",
    "PostgresCluster", "PostgresNode", "MariadbCluster", "MariadbNode", "MariadbServer",
    "RedisServer", "MemcachedServer", "DnsServer", "FaultProxy",
    "backend_suite",
]  # fmt: skip

_HOMES = {
    "FakeClock": "datakit.testing.clock",
    "no_sleep": "datakit.testing.retries",
    "PostgresCluster": "datakit.testing.postgres",
    "PostgresNode": "datakit.testing.postgres_node",
    "MariadbCluster": "datakit.testing.mariadb_cluster",
    "MariadbNode": "datakit.testing.mariadb_node",
    "MariadbServer": "datakit.testing.mariadb",
    "RedisServer": "datakit.testing.redis",
    "MemcachedServer": "datakit.testing.memcached",
    "DnsServer": "datakit.testing.dns",
    "FaultProxy": "datakit.testing.proxy",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES and name != "backend_suite":
        raise AttributeError(f"module 'datakit.testing' has no attribute {name!r}")
    from importlib import import_module

    if name == "backend_suite":
        return import_module("datakit.testing.backend_suite")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "backend_suite"})
