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
from datakit.testing._run_directory import RunDirectory, ServerProcess
from datakit.testing._wait import until

if TYPE_CHECKING:
    import psycopg

_READY = {"ready", "standby"}
_CONFIG_MODE = 0o644


class PostgresNode:
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
        self._server: ServerProcess | None = None

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

    @property
    def pid(self) -> int:
        """Its postmaster's process.

        Raises:
            ConfigError: it was never started.
        """
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether its postmaster exists, stopped or not."""
        return self._server is not None and self._server.alive

    def kill(self) -> None:
        """SIGKILL the postmaster and all its processes at once, as a crashed machine would."""
        self._running().kill()
        _reaper.remove_segment(self._data)

    def stop_process(self) -> None:
        """SIGSTOP all its processes: connections stay open and nothing answers."""
        self._running().stop()

    def resume_process(self) -> None:
        """SIGCONT all its processes."""
        self._running().resume()

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
        until(lambda: self._status() in _READY or not self.alive, f"start of {self!r}")
        if not self.alive:
            log = self._log.read_text(errors="replace")
            kind = PortTakenError if "Address already in use" in log else RuntimeError
            raise kind(f"{self!r} did not start: {log.strip()}")

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

    def _running(self) -> ServerProcess:
        if self._server is None:
            raise ConfigError(f"{self!r} was not started")
        return self._server
