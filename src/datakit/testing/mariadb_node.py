"""One MariaDB server: alone, or of a `MariadbCluster`."""

import shutil
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pymysql
import pymysql.cursors

from datakit.errors import ConfigError
from datakit.testing._account import give
from datakit.testing._binaries import find_mariadb
from datakit.testing._certificate import Certificate
from datakit.testing._mariadb_config import Replication, server_options, socket_path
from datakit.testing._mariadb_data import make_data
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._server import Killable
from datakit.testing._wait import until

_QUERY_TIMEOUT = 10
_LOCK_TIMEOUT = 2
_LOCK_WAIT_TIMEOUT = 1205


class MariadbNode(Killable):
    """One MariaDB server. Made by `MariadbCluster`; alone it is a `MariadbServer`.

    address: where it listens, and nowhere else.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        database: str,
        user: str,
        password: str | None = None,
        read_only: bool = False,
        replication: Replication | None = None,
    ) -> None:
        self.address = address
        self.database = database
        self.user = user
        self.password = password
        self._port = port
        self._read_only = read_only
        self._replication = replication
        self._certificate: Certificate | None = None
        self._run: RunDirectory | None = None
        self._directory = Path()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address}:{self._port})"

    @property
    def port(self) -> int:
        """Its TCP port; 0 before the first start."""
        return self._port

    @property
    def certificate(self) -> Path:
        """The PEM file for clients to verify it with.

        Raises:
            ConfigError: it has no TLS or does not run.
        """
        if self._certificate is None:
            raise ConfigError(f"{self!r} has no certificate: give tls=True and start() it")
        return self._certificate.certificate

    def url(self, driver: str = "pymysql") -> str:
        """Return its SQLAlchemy URL, `mysql+pymysql://app:password@127.0.0.1:3306/app`.

        driver: the part behind the plus sign; "" for `mysql://`.
        """
        scheme = f"mysql+{driver}" if driver else "mysql"
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{scheme}://{self.user}{password}@{self.address}:{self._port}/{self.database}"

    def restart(self) -> None:
        """Kill it if it is alive, start it on its own data and port, wait until it is ready.

        A replica follows its primary again. What it had received and not applied it fetches anew:
        with a dead primary that is lost.

        Raises:
            RuntimeError: it ended at once, as when another program took the port meanwhile.
            TimeoutError: it was not ready within 30 s.
        """
        self.kill()
        launch_on_free_port(self._start_on, [self.address], self._port)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of one statement, run in `database` by the superuser.

        Raises:
            ConfigError: it was not started.
            pymysql.err.MySQLError: the statement failed, or nothing answered within 10 s.
        """
        return self._rows(sql, self.database)

    def set_read_only(self, read_only: bool = True) -> None:
        """Refuse the user's writes with error 1290, as a demoted primary does, or take them again.

        Connections stay, but a transaction that has written cannot commit once this returns. When
        a statement or a commit still runs after 2 s, as one that waits for a lost replica does,
        the server is restarted: to end such a commit by KILL could acknowledge it. It holds after
        a restart too.

        Raises:
            ConfigError: it was not started.
            pymysql.err.MySQLError: nothing answered within 10 s.
            RuntimeError, TimeoutError: as of `restart`.
        """
        self._read_only = read_only
        try:
            self._execute(
                f"set lock_wait_timeout = {_LOCK_TIMEOUT}",
                f"set global read_only = {int(read_only)}",
            )
        except pymysql.err.OperationalError as exc:
            if exc.args[0] != _LOCK_WAIT_TIMEOUT:
                raise
            self.restart()

    def _place(self, run: RunDirectory, certificate: Certificate | None) -> None:
        """Make its data, of a server that holds nothing yet, in a directory of its own in `run`."""
        self._run = run
        self._certificate = certificate
        self._directory = run.path / self.address
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        make_data(self._directory / "data", find_mariadb(), run)
        give(self._directory, run.account)

    def _make_replica(self, replication: Replication) -> None:
        """Start it without data of its own, to follow a primary."""
        assert self._run is not None
        self._place(self._run, self._certificate)
        self._read_only = True
        self._replication = replication
        launch_on_free_port(self._start_on, [self.address], self._port)

    def _start_on(self, port: int) -> None:
        self._launch(port)
        self._wait_ready()

    def _launch(self, port: int) -> None:
        assert self._run is not None
        self._port = port
        options = server_options(
            self._directory,
            address=self.address,
            port=port,
            read_only=self._read_only,
            certificate=self._certificate,
            replication=self._replication,
        )
        self._server = self._run.spawn(
            [find_mariadb().server, *options], cwd=self._directory, log=self._log
        )

    def _wait_ready(self) -> None:
        log = self._log
        self._await_start(lambda: "ready for connections" in log.read_text(errors="replace"), log)

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _create_database(self) -> None:
        account = f"'{self.user}'@'%'"
        pattern = self.database.replace("_", r"\_")  # a bare _ in a grant is any character
        self._execute(
            f"create database `{self.database}`",
            f"create user {account}",
            f"grant all on `{pattern}`.* to {account}",
        )
        if self.password is not None:
            with closing(self._connect()) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "set password for %s@'%%' = password(%s)", (self.user, self.password)
                )

    def _follow(self, upstream: "MariadbNode") -> None:
        """Replicate `upstream`, from the end of what it has of it."""
        self._execute(
            "stop slave",
            f"change master to master_host='{upstream.address}', master_port={upstream.port},"
            " master_user='root', master_connect_retry=1, master_use_gtid=slave_pos",
            "start slave",
        )

    def _stop_receiving(self) -> None:
        self._execute("stop slave io_thread")

    def _received(self) -> int:
        """Return the number of the last transaction in its relay log, or applied from it."""
        return max(_number(self._status()["Gtid_IO_Pos"]), self._applied())

    def _applied(self) -> int:
        """Return the number of the last transaction that it has from its primary."""
        [(position,)] = self._rows("select @@gtid_slave_pos")
        return _number(position)

    def _committed(self) -> int:
        """Return the number of the last transaction in its binary log."""
        [(position,)] = self._rows("select @@gtid_binlog_pos")
        return _number(position)

    def _replicates(self) -> bool:
        status = self._status()
        return status["Slave_IO_Running"] == status["Slave_SQL_Running"] == "Yes"

    def _progress(self) -> str:
        """Return how far its replication is, and what keeps it from going on."""
        status = self._status()
        names = ("Slave_IO_State", "Last_IO_Error", "Slave_SQL_Running_State", "Last_SQL_Error",
                 "Gtid_IO_Pos")  # fmt: skip
        told = [f"{name}: {status.get(name)}" for name in names]
        return "; ".join([*told, f"applied: {self._applied()}"])

    def _become_primary(self) -> None:
        """Apply what was received to the end, then take writes that wait for no replica."""
        received = self._received()
        until(lambda: self._applied() >= received, f"the last transactions on {self!r}")
        self._execute("stop slave", "reset slave all")
        self._set_replication(acknowledged=False, acknowledges=False)
        self.set_read_only(False)

    def _set_replication(self, *, acknowledged: bool, acknowledges: bool) -> None:
        """Change its part in semi-synchronous replication, for this and later starts."""
        assert self._replication is not None
        self._replication = self._replication._replace(
            acknowledged=acknowledged, acknowledges=acknowledges
        )
        self._execute(
            f"set global rpl_semi_sync_slave_enabled = {int(acknowledges)}",
            f"set global rpl_semi_sync_master_enabled = {int(acknowledged)}",
        )

    def _acknowledging(self) -> int:
        """Return how many replicas are ready to acknowledge its commits."""
        [(_, clients)] = self._rows("show status like 'Rpl_semi_sync_master_clients'")
        return int(str(clients))

    def _status(self) -> dict[str, object]:
        with (
            closing(self._connect()) as connection,
            connection.cursor(pymysql.cursors.DictCursor) as cursor,
        ):
            cursor.execute("show slave status")
            return cursor.fetchone() or {}

    def _rows(self, sql: str, database: str | None = None) -> list[tuple[object, ...]]:
        """As `query`, also while a new replica has no `database`."""
        with closing(self._connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def _execute(self, *statements: str) -> None:
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _connect(self, database: str | None = None) -> "pymysql.connections.Connection":
        self._running()
        return pymysql.connect(
            unix_socket=str(socket_path(self._directory)),
            user="root",
            database=database,
            autocommit=True,
            ssl_disabled=True,  # else the system's certificates are read, for 40 ms
            connect_timeout=_QUERY_TIMEOUT,
            read_timeout=_QUERY_TIMEOUT,
        )


def _number(position: object) -> int:
    """Return the last part of a GTID, such as 0-1-42; 0 for none."""
    return int(str(position).rpartition("-")[2] or 0)
