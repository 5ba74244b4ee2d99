"""A MariaDB server of one's own."""

import re
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pymysql

from datakit.errors import ConfigError
from datakit.testing._binaries import find_mariadb
from datakit.testing._certificate import Certificate, Tls, check_tls, make_certificate
from datakit.testing._mariadb_config import server_options, socket_path
from datakit.testing._mariadb_data import make_data
from datakit.testing._ports import PortTakenError, launch_on_free_port
from datakit.testing._run_directory import RunDirectory, ServerProcess
from datakit.testing._wait import until

_START_TIMEOUT = 30.0
_QUERY_TIMEOUT = 10
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class MariadbServer:
    """One mariadbd, the system's, on a loopback port, for as long as the `with` block.

    address, port: where it listens; a free port when none is given.
    database: the one database.
    user: has all rights on it, from any host, and none beyond, so that `read_only` binds it.
    password: of `user`; None for none.
    tls: the paths of a certificate and its key, or True for a self-signed pair that is for
        `address` and `db.shop.internal`. Connections without TLS are taken still.
    read_only: whether it starts so, as a replica does; `query("set global read_only = 0")` ends it.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        database: str = "app",
        user: str = "app",
        password: str | None = None,
        tls: Tls = None,
        read_only: bool = False,
    ) -> None:
        for option, name in (("database", database), ("user", user)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"MariadbServer({option}={name!r}): use a-z, 0-9 and _")
        if user == "root":
            raise ConfigError("MariadbServer(user='root'): root is its superuser, see query()")
        if password == "":
            raise ConfigError("MariadbServer(password=''): give None for a user without password")
        check_tls("MariadbServer", tls)
        self.address = address
        self.database = database
        self.user = user
        self.password = password
        self._wanted_port = port
        self._port = port or 0
        self._tls = tls
        self._read_only = read_only
        self._certificate: Certificate | None = None
        self._run: RunDirectory | None = None
        self._server: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"MariadbServer({self.address}:{self._port})"

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

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            ConfigError: it was not started.
        """
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether its process exists, stopped or not."""
        return self._server is not None and self._server.alive

    def url(self, driver: str = "pymysql") -> str:
        """Return its SQLAlchemy URL, `mysql+pymysql://app:password@127.0.0.1:3306/app`.

        driver: the part behind the plus sign; "" for `mysql://`.
        """
        scheme = f"mysql+{driver}" if driver else "mysql"
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{scheme}://{self.user}{password}@{self.address}:{self._port}/{self.database}"

    def start(self) -> Self:
        """Start it; return itself when it takes connections.

        Raises:
            ConfigError: it runs already, or MariaDB is not installed.
            RuntimeError: it ended at once; the message holds its log.
            TimeoutError: it was not ready within 30 s.
        """
        if self._run is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        programs = find_mariadb()
        self._run = run = RunDirectory()
        try:
            self._certificate = make_certificate(self._tls, [self.address], run)
            make_data(run.path / "data", programs, run)
            launch_on_free_port(self._launch, [self.address], self._wanted_port)
            self._create_database()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill it and remove its directory. Closing twice is fine."""
        if self._run is not None:
            self._run.close()
            self._run = self._server = self._certificate = None

    def kill(self) -> None:
        """SIGKILL it, as a crashed machine would."""
        self._running().kill()

    def stop_process(self) -> None:
        """SIGSTOP it: connections stay open and nothing answers."""
        self._running().stop()

    def resume_process(self) -> None:
        """SIGCONT it."""
        self._running().resume()

    def restart(self) -> None:
        """Kill it if it is alive, start it on its own data and port, wait until it is ready.

        Raises:
            RuntimeError: it ended at once, as when another program took the port meanwhile.
            TimeoutError: it was not ready within 30 s.
        """
        self._running().kill()
        launch_on_free_port(self._launch, [self.address], self._port)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of one statement, run in `database` by the superuser.

        Raises:
            ConfigError: it was not started.
            pymysql.err.MySQLError: the statement failed, or nothing answered within 10 s.
        """
        with closing(self._connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, port: int) -> None:
        assert self._run is not None
        self._port = port
        path, log = self._run.path, self._run.path / "log"
        options = server_options(
            path,
            address=self.address,
            port=port,
            read_only=self._read_only,
            certificate=self._certificate,
        )
        server = self._run.spawn([find_mariadb().server, *options], cwd=path, log=log)
        until(
            lambda: "ready for connections" in _text(log) or not server.alive,
            f"start of mariadbd on {self.address}:{port}",
            timeout=_START_TIMEOUT,
        )
        if not server.alive:
            kind = PortTakenError if "Address already in use" in _text(log) else RuntimeError
            raise kind(f"mariadbd did not start: {_text(log).strip()}")
        self._server = server

    def _create_database(self) -> None:
        account = f"'{self.user}'@'%'"
        pattern = self.database.replace("_", r"\_")  # a bare _ in a grant is any character
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"create database `{self.database}`")
            cursor.execute(f"create user {account}")
            cursor.execute(f"grant all on `{pattern}`.* to {account}")
            if self.password is not None:
                cursor.execute(
                    "set password for %s@'%%' = password(%s)", (self.user, self.password)
                )

    def _connect(self, database: str | None = None) -> "pymysql.connections.Connection":
        self._running()
        assert self._run is not None
        return pymysql.connect(
            unix_socket=str(socket_path(self._run.path)),
            user="root",
            database=database,
            autocommit=True,
            connect_timeout=_QUERY_TIMEOUT,
            read_timeout=_QUERY_TIMEOUT,
        )

    def _running(self) -> ServerProcess:
        if self._server is None:
            raise ConfigError(f"{self!r} is not running: start() it, or use it in a with block")
        return self._server


def _text(log: Path) -> str:
    return log.read_text(errors="replace")
