"""One server of a `PostgresCluster`."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from datakit._extras import require
from datakit.errors import ConfigError
from datakit.testing import _reaper
from datakit.testing._certificate import Certificate
from datakit.testing._ports import PortTakenError
from datakit.testing._postgres_config import access_rules, server_config
from datakit.testing._run_directory import RunDirectory
from datakit.testing._server import Killable
from datakit.testing._wait import until

if TYPE_CHECKING:
    import psycopg

_READY = {"ready", "standby"}
_CONFIG_MODE = 0o644

_READ_ONLY = "alter system set default_transaction_read_only = on"
_READ_WRITE = "alter system reset default_transaction_read_only"
_CUT_OFF = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()"
)


class PostgresNode(Killable):
    """One PostgreSQL server: a primary or a standby. Made by `PostgresCluster`.

    address, port: where it listens, and nowhere else.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        user: str,
        database: str,
        run: RunDirectory,
        programs: Path,
        password: str | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.user = user
        self.database = database
        self.password = password
        self._run = run
        self._programs = programs
        self._certificate = certificate
        self._data = run.path / address
        self._log = run.path / f"{address}.log"

    def __repr__(self) -> str:
        return f"PostgresNode({self.address}:{self.port})"

    def url(self, driver: str = "psycopg") -> str:
        """Return its SQLAlchemy URL, `postgresql+psycopg://app@127.0.0.2:5432/app`.

        driver: the part behind the plus sign; "" for `postgresql://`, which libpq reads too.
        """
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{scheme}://{self.user}{password}@{self.address}:{self.port}/{self.database}"

    @property
    def certificate(self) -> Path:
        """The PEM file for clients to verify it with.

        Raises:
            ConfigError: it has no TLS.
        """
        if self._certificate is None:
            raise ConfigError(f"{self!r} has no certificate: give PostgresCluster tls=True")
        return self._certificate.certificate

    def kill(self) -> None:
        """SIGKILL all its processes at once, as a crashed machine would."""
        super().kill()
        _reaper.remove_segment(self._data)

    def set_read_only(self, read_only: bool = True) -> None:
        """Refuse writes with SQLSTATE 25006, as a demoted primary does, or take them again.

        Connections in a transaction are cut off, so that none commits once this returns; the
        others stay. It holds after a restart too. It is `default_transaction_read_only`: a client
        that says `read write` itself gets past it.

        Raises:
            ConfigError: it was not started.
            psycopg.Error: it takes no connections.
            TimeoutError: it did not come to this within 30 s.
        """
        self._running()
        with self._connect() as connection:
            connection.execute(_READ_ONLY if read_only else _READ_WRITE)
            connection.execute("select pg_reload_conf()")
            until(lambda: self._refuses_writes() == read_only, f"reload of {self!r}")
            if read_only:
                until(
                    lambda: not connection.execute(_CUT_OFF).fetchall(),
                    f"end of the transactions on {self!r}",
                )

    def restart(self) -> None:
        """Kill it if it is alive, start it on its own data and wait until it takes connections.

        Raises:
            RuntimeError: it ended at once; the message holds its log.
            TimeoutError: it was not ready within 30 s.
        """
        self.kill()
        self._launch()
        try:
            self._wait_ready()
        except PortTakenError as exc:
            raise RuntimeError(str(exc)) from exc

    def _make(self) -> None:
        """Make an empty database, owned by `postgres`."""
        self._run.run([
            self._programs / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust",
            "-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions",
        ])  # fmt: skip

    def _copy_from(self, source: "PostgresNode") -> None:
        """Copy the files of a server that is shut down."""
        shutil.copytree(source._data, self._data)
        self._own(self._data, *self._data.rglob("*"))

    def _clone_from(self, source: "PostgresNode") -> None:
        """Replace the data, if any, by a base backup of a running server."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._run.run([
            self._programs / "pg_basebackup", "-D", self._data, "-h", source.address,
            "-p", str(source.port), "-U", "postgres", "-w", "-c", "fast", "-X", "stream",
            "--no-sync",
        ])  # fmt: skip

    def _configure(
        self, *, upstream: "PostgresNode | None" = None, synchronous: Sequence[str] = ()
    ) -> None:
        """Write its configuration: a standby of `upstream`, or a primary."""
        rules = access_rules(password=self.password is not None, tls=self._certificate is not None)
        self._write("pg_hba.conf", rules)
        config = server_config(
            address=self.address,
            port=self.port,
            upstream=upstream.address if upstream else None,
            synchronous=synchronous,
            certificate=self._certificate,
        )
        self._write("postgresql.conf", config)
        if upstream is not None:
            self._write("standby.signal", "")

    def _reconfigure(
        self, *, upstream: "PostgresNode | None" = None, synchronous: Sequence[str] = ()
    ) -> None:
        """Change the configuration of a running server."""
        self._configure(upstream=upstream, synchronous=synchronous)
        os.kill(self.pid, signal.SIGHUP)

    def _launch(self) -> None:
        self._server = self._run.spawn(
            [self._programs / "postgres", "-D", self._data], cwd=self._data, log=self._log
        )

    def _wait_ready(self) -> None:
        self._await_start(lambda: self._status() in _READY, self._log)

    def _refuses_writes(self) -> bool:
        """Whether new connections do."""
        with self._connect() as connection:
            row = connection.execute("show default_transaction_read_only").fetchone()
        return row == ("on",)

    def _connect(self, database: str = "postgres") -> "psycopg.Connection":
        require("psycopg", extra="binary", purpose="PostgresCluster")
        import psycopg

        return psycopg.connect(
            host=self.address,
            port=self.port,
            user="postgres",
            dbname=database,
            sslmode="disable",
            connect_timeout=10,
            autocommit=True,
        )

    def _status(self) -> str:
        """Return what the postmaster says of itself. Source: PostgreSQL, utils/pidfile.h."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        return lines[7].strip() if len(lines) > 7 and lines[0] == str(self.pid) else ""

    def _write(self, name: str, text: str) -> None:
        path = self._data / name
        path.write_text(text)
        path.chmod(_CONFIG_MODE)
        self._own(path)

    def _own(self, *paths: Path) -> None:
        if self._run.account is not None:
            for path in paths:
                os.chown(path, *self._run.account)
