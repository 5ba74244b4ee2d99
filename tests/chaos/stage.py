"""The servers of one run, the ways to reach them, and when what happened to them."""

from contextlib import ExitStack, closing
from dataclasses import replace
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import sqlalchemy
from sqlalchemy import NullPool
from tests.chaos.bank import PROBE
from tests.chaos.ways import Way
from tests.integration.proxies import HAProxy, PgBouncer

from datakit.testing import (
    DnsServer,
    FaultProxy,
    MariadbCluster,
    MariadbNode,
    PostgresCluster,
    PostgresNode,
)

Cluster = PostgresCluster | MariadbCluster
Node = PostgresNode | MariadbNode

NAME = "db.shop.internal"
AURORA = "shop.cluster-cabc123.eu-west-1.rds.amazonaws.com"
INSTANCE = "{}.cabc123.eu-west-1.rds.amazonaws.com"
TTL = 1
AURORA_TTL = 5
_PROBE_EVERY, _PROBE_FOR = 0.002, 30.0


class Stage:
    """One run's. fault_at, accepts_at, ended_at: see `Times`."""

    def __init__(self, cluster: Cluster, dns: DnsServer, rng: Random, stack: ExitStack) -> None:
        self.cluster = cluster
        self.dns = dns
        self.rng = rng
        self.old: Node = cluster.primary
        self.fault_at = self.accepts_at = self.ended_at = 0.0
        self.faults: dict[str, FaultProxy] = {}
        """By the address of the node behind."""
        self.proxy: PgBouncer | HAProxy | None = None
        self._stack = stack
        self._leads_to: Node = cluster.primary

    @property
    def family(self) -> str:
        """As SQLAlchemy calls it."""
        return "postgresql" if isinstance(self.cluster, PostgresCluster) else "mysql"

    @property
    def standby(self) -> Node:
        """The node that will be promoted."""
        followers = (
            self.cluster.standbys
            if isinstance(self.cluster, PostgresCluster)
            else self.cluster.replicas
        )
        return followers[0]

    @property
    def failed_over(self) -> bool:
        """Whether there is another primary than at the start."""
        return self.cluster.primary is not self.old

    def by_hosts(self) -> Way:
        """All nodes in the URL."""
        return self._way(*map(_place, self.cluster.nodes))

    def by_faults(self) -> Way:
        """All nodes in the URL, each behind a proxy that can do harm."""
        for node in self.cluster.nodes:
            own = node.address.replace("127.0.0.", "127.0.1.")
            proxy = FaultProxy(node.address, node.port, host=own)
            self.faults[node.address] = self._stack.enter_context(proxy)

        def place(node: Node) -> str:
            return f"{self.faults[node.address].host}:{self.faults[node.address].port}"

        way = self._way(*map(place, self.cluster.nodes))
        return replace(way, leads_to=lambda: place(self._leads_to))

    def by_name(self) -> Way:
        """A name whose record an operator moves."""
        self.point_to(self.old)
        return replace(self._way(f"{NAME}:{self.old.port}"), dns=self.dns.endpoint)

    def by_cluster_name(self) -> Way:
        """The same, said to be a cluster's: each new connection has to take writes."""
        return replace(self.by_name(), endpoint="cluster")

    def by_topology(self) -> Way:
        """The cluster's name of an Aurora, and the cluster's own word for the writer."""
        assert isinstance(self.cluster, PostgresCluster)
        for instance, node in self.cluster.imitate_aurora().items():
            self.dns.set(INSTANCE.format(instance), "A", [node.address], ttl=AURORA_TTL)
        self.point_to(self.old)
        return replace(self._way(f"{AURORA}:{self.old.port}"), dns=self.dns.endpoint)

    def by_pgbouncer(self) -> Way:
        """A PgBouncer before the primary."""
        assert isinstance(self.cluster, PostgresCluster)
        return self._by(PgBouncer(self.cluster.primary))

    def by_haproxy(self) -> Way:
        """An HAProxy before the primary."""
        return self._by(HAProxy([self.cluster.primary]))

    def fault(self) -> None:
        """Take note that it happens now."""
        self.fault_at = monotonic()

    def fault_harms_no_server(self) -> None:
        """Take note that it happens now, and that the server takes writes all the time."""
        self.fault_at = self.accepts_at = monotonic()

    def promote(self) -> None:
        """Promote the standby; take note of when it takes writes, and let the record follow."""
        self.promote_unnoticed()
        self.point_to(self.cluster.primary)

    def promote_unnoticed(self) -> None:
        """Promote the standby and leave the record as it is."""
        probe = Probe(self.standby.url())
        self.cluster.promote()
        self.accepts_at = probe.wait()

    def cut_replication(self) -> None:
        """Let the standby receive no more."""
        if isinstance(self.standby, PostgresNode):
            self.standby._reconfigure()
        else:
            self.standby._stop_receiving()

    def restart_proxy(self) -> None:
        """Restart the proxy; take note of when writes pass again."""
        assert self.proxy is not None
        self.proxy.kill()
        sleep(self.rng.uniform(0.0, 0.3))
        place = f"{self.proxy.address}:{self.proxy.port}"
        probe = Probe(self.old.url().replace(_place(self.old), place))
        self.proxy.restart()
        self.accepts_at = probe.wait()

    def point_to(self, node: Node) -> None:
        """Change the names' records."""
        self._leads_to = node
        self.dns.set(NAME, "A", [node.address], ttl=TTL)
        self.dns.set(AURORA, "A", [node.address], ttl=AURORA_TTL)

    def end(self) -> None:
        """End what still holds back a client: the old primary, if it was left, and the proxies."""
        self.ended_at = monotonic()
        if self.failed_over:
            self.old.kill()
        self._stack.close()

    def _way(self, *hosts: str) -> Way:
        return Way(self.family, hosts, lambda: _place(self._leads_to), lookup=self._address)

    def _by(self, proxy: PgBouncer | HAProxy) -> Way:
        self.proxy = proxy
        self._stack.enter_context(proxy)
        place = f"{proxy.address}:{proxy.port}"
        return Way(self.family, (place,), lambda: place, endpoint="proxy")

    def _address(self, name: str) -> str:
        """Return the address of a name as it is now, without a cache."""
        import dns.resolver

        stub = dns.resolver.Resolver(configure=False)
        stub.nameservers, stub.port = [self.dns.address], self.dns.port
        return str(next(iter(stub.resolve(name, "A"))))


class Probe:
    """An independent client that tries to write to one server until it is let."""

    def __init__(self, url: str) -> None:
        timeout = {"connect_timeout": 1}
        self._engine = sqlalchemy.create_engine(
            url, poolclass=NullPool, connect_args=timeout, isolation_level="AUTOCOMMIT"
        )
        self._errors = self._engine.dialect.loaded_dbapi.Error
        self._at = 0.0
        self._accepted = Event()
        Thread(target=self._run, name="probe", daemon=True).start()

    def wait(self) -> float:
        """Return when it was let.

        Raises:
            TimeoutError: it was not within 30 s.
        """
        if not self._accepted.wait(_PROBE_FOR):
            raise TimeoutError("the new writer takes no writes")
        return self._at

    def _run(self) -> None:
        until = monotonic() + _PROBE_FOR
        while not self._accepted.is_set() and monotonic() < until:
            try:
                connection = self._engine.raw_connection()
            except self._errors:
                sleep(_PROBE_EVERY)
            else:
                self._try(connection.driver_connection, until)
                connection.invalidate()

    def _try(self, connection: Any, until: float) -> None:
        """Write until it is let, or the connection is lost."""
        while monotonic() < until:
            try:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(PROBE)
            except self._errors as exc:
                if self._engine.dialect.is_disconnect(exc, connection, None):
                    return
                sleep(_PROBE_EVERY)
            else:
                self._at = monotonic()
                self._accepted.set()
                return


def _place(node: Node) -> str:
    return f"{node.address}:{node.port}"
