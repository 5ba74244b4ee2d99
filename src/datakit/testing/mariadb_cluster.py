"""A MariaDB primary with replicas, to be killed, stopped, promoted and rejoined."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from datakit.errors import ConfigError
from datakit.testing._binaries import find_mariadb
from datakit.testing._certificate import Tls, check_tls, make_certificate
from datakit.testing._mariadb_config import Replication, check_account
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._wait import until
from datakit.testing._with_block import WithBlock
from datakit.testing.mariadb_node import MariadbNode

_MAX_REPLICAS = 5


class MariadbCluster(WithBlock):
    """A MariaDB primary and its replicas on loopback, for as long as the `with` block.

    All share one port on addresses of their own. The programs are the system's.

    replicas: how many, 0 to 5. They are `read_only` and replicate by GTID.
    synchronous: whether a commit waits until one replica has received it (semi-synchronous
        replication, AFTER_SYNC), however long that takes.
    database: the one database.
    user: has all rights on it, from any host, and none beyond, so that `read_only` binds it.
    addresses: one a node, the first primary's first; 127.0.0.2, 127.0.0.3 ... by default.
    port: the port of all nodes; a free one when none is given.
    password: of `user`; None for none.
    tls: the paths of a certificate and its key, or True for a self-signed pair that is for
        `addresses` and `db.shop.internal`. Connections without TLS are taken still.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        synchronous: bool = True,
        database: str = "app",
        user: str = "app",
        addresses: Sequence[str] | None = None,
        port: int | None = None,
        password: str | None = None,
        tls: Tls = None,
    ) -> None:
        if not 0 <= replicas <= _MAX_REPLICAS:
            raise ConfigError(f"MariadbCluster(replicas={replicas!r}): 0 to {_MAX_REPLICAS}")
        check_account("MariadbCluster", database, user, password)
        check_tls("MariadbCluster", tls)
        if addresses is None:
            addresses = [f"127.0.0.{n}" for n in range(2, replicas + 3)]
        if len(set(addresses)) != len(addresses) or len(addresses) != replicas + 1:
            raise ConfigError(
                f"MariadbCluster(addresses={addresses!r}): {replicas + 1} different ones"
            )
        self._addresses = tuple(addresses)
        self._synchronous = synchronous
        self._database = database
        self._user = user
        self._wanted_port = port
        self._password = password
        self._tls = tls
        self._run: RunDirectory | None = None
        self._server_ids = itertools.count(1)
        self._nodes: tuple[MariadbNode, ...] = ()
        self._primary: MariadbNode | None = None
        self._followers: list[MariadbNode] = []

    def __repr__(self) -> str:
        return f"MariadbCluster({', '.join(f'{n.address}:{n.port}' for n in self._nodes)})"

    @property
    def nodes(self) -> tuple[MariadbNode, ...]:
        """All nodes, alive or not, in the order of their addresses; empty before `start`."""
        return self._nodes

    @property
    def primary(self) -> MariadbNode:
        """The node that was made the primary last, alive or not.

        Raises:
            ConfigError: the cluster was not started.
        """
        if self._primary is None:
            raise ConfigError("the cluster is not running: start() it, or use it in a with block")
        return self._primary

    @property
    def replicas(self) -> tuple[MariadbNode, ...]:
        """The living nodes that follow the primary."""
        return tuple(node for node in self._followers if node.alive)

    @property
    def port(self) -> int:
        """The port of all nodes.

        Raises:
            ConfigError: the cluster was not started.
        """
        return self.primary.port

    @property
    def certificate(self) -> Path:
        """The PEM file for clients to verify every node with.

        Raises:
            ConfigError: the cluster has no TLS or was not started.
        """
        return self.primary.certificate

    def url(self, driver: str = "pymysql") -> str:
        """Return the primary's SQLAlchemy URL; see `MariadbNode.url`."""
        return self.primary.url(driver)

    def start(self) -> Self:
        """Start all nodes; return itself when every replica follows.

        Raises:
            ConfigError: it runs already, or MariaDB is not installed.
            RuntimeError: a server ended at once; the message holds its log.
            TimeoutError: a server or its replication was not ready within 30 s.
        """
        if self._run is not None:
            raise ConfigError("the cluster is started already: close() it first")
        find_mariadb()
        self._run = run = RunDirectory()
        try:
            self._nodes = self._plan()
            self._primary, *self._followers = self._nodes
            certificate = make_certificate(self._tls, self._addresses, run)
            for node in self._nodes:
                node._place(run, certificate)
            launch_on_free_port(self._launch_all, self._addresses, self._wanted_port)
            self._primary._create_database()
            for node in self._followers:
                node._follow(self._primary)
            self._wait_for_followers()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill all nodes and remove their directories. Closing twice is fine."""
        if self._run is not None:
            self._run.close()
            self._run = self._primary = None
            self._nodes, self._followers = (), []

    def promote(self, node: MariadbNode | None = None) -> MariadbNode:
        """Make a replica the primary; return it when it has applied all and accepts writes.

        The other replicas follow it. Commits wait for no replica until the next `rejoin`. The old
        primary is left as it is: kill or stop it or make it read only before, or there are two.

        node: by default the replica that has received most; one that has more must be rejoined.

        Raises:
            ConfigError: `node` is no living replica, or there is none.
            TimeoutError: it was not ready within 30 s.
        """
        if not self.replicas or (node is not None and node not in self.replicas):
            raise ConfigError(f"cannot promote {node or 'any node'}: not a living replica")
        for replica in self.replicas:
            replica._stop_receiving()
        new = node or max(self.replicas, key=MariadbNode._received)
        new._become_primary()
        self._primary = new
        self._followers.remove(new)
        for other in self.replicas:
            other._follow(new)
        return new

    def rejoin(self, node: MariadbNode) -> None:
        """Bring a node back as a replica of the primary, from the primary's whole binary log.

        Whatever it holds is dropped, so also what it had and nobody acknowledged; it is killed
        first if it is alive. Returns when all replicas follow, synchronously again if the cluster
        is synchronous.

        Raises:
            ConfigError: `node` is the primary, of another cluster, or the primary is dead.
            RuntimeError: the server did not start.
            TimeoutError: a server or its replication was not ready within 30 s.
        """
        if node not in self._nodes or node is self.primary:
            raise ConfigError(f"cannot rejoin {node!r}: not another node of this cluster")
        if not self.primary.alive:
            raise ConfigError(f"cannot rejoin {node!r}: the primary {self.primary!r} is dead")
        node.kill()
        node._make_replica(self._part(replica=True))
        node._follow(self.primary)
        if node not in self._followers:
            self._followers.append(node)
        self._wait_for_followers()

    def _plan(self) -> tuple[MariadbNode, ...]:
        return tuple(
            MariadbNode(
                address,
                0,
                database=self._database,
                user=self._user,
                password=self._password,
                read_only=address != self._addresses[0],
                replication=self._part(replica=address != self._addresses[0]),
            )
            for address in self._addresses
        )

    def _part(self, *, replica: bool) -> Replication:
        """Return a part under a number that is new: a replica skips what it wrote itself once."""
        return Replication(next(self._server_ids), acknowledges=replica and self._synchronous)

    def _launch_all(self, port: int) -> None:
        for node in self._nodes:
            if node.alive:  # from a try on a port that was taken
                node.kill()
            node._launch(port)
        for node in self._nodes:
            node._wait_ready()

    def _wait_for_followers(self) -> None:
        """Wait until all replicas have what is committed, then have commits wait for one."""
        if not self.replicas:
            return
        try:
            until(self._all_follow, "replication to all replicas")
        except TimeoutError as exc:
            for node in self.replicas:
                exc.add_note(f"{node!r}: {node._progress()}")
            raise
        if self._synchronous:
            count = len(self.replicas)
            self.primary._set_replication(acknowledged=True, acknowledges=False)
            until(lambda: self.primary._acknowledging() >= count, "semi-synchronous replication")

    def _all_follow(self) -> bool:
        committed = self.primary._committed()
        return all(node._replicates() and node._applied() >= committed for node in self.replicas)
