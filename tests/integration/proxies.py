"""The proxies that stand before databases in production: PgBouncer and HAProxy, real ones."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Self

from datakit.testing import MariadbNode, PostgresNode
from datakit.testing._certificate import Certificate, Tls, make_certificate
from datakit.testing._ports import PortTakenError, launch_on_free_port
from datakit.testing._run_directory import RunDirectory, ServerProcess
from datakit.testing._wait import until


class _Proxy(ABC):
    """One process on a free loopback port, for the length of a `with` block."""

    program: str

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.port = 0
        self.run = RunDirectory()
        self._server: ServerProcess | None = None

    def __enter__(self) -> Self:
        try:
            launch_on_free_port(self._launch, [self.address], None)
        except BaseException:
            self.run.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.run.close()

    @property
    def alive(self) -> bool:
        return self._server is not None and self._server.alive

    @property
    def log(self) -> str:
        return (self.run.path / "log").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL it: its connections are cut and its port refuses."""
        assert self._server is not None
        self._server.kill()

    def restart(self) -> None:
        """Kill it if it is alive and start it on the same port."""
        self.kill()
        launch_on_free_port(self._launch, [self.address], self.port)

    def _launch(self, port: int) -> None:
        self.port = port
        program = which(self.program) or which(self.program, path="/usr/sbin:/sbin")
        assert program, f"{self.program} is not installed: run scripts/install_servers"
        self._server = server = self.run.spawn(
            [program, *self._arguments()], cwd=self.run.path, log=self.run.path / "log"
        )
        until(lambda: self._is_ready() or not server.alive, f"start of {self.program}")
        if not server.alive:
            kind = PortTakenError if "Address already in use" in self.log else RuntimeError
            raise kind(f"{self.program} did not start: {self.log}")

    def _write(self, name: str, text: str) -> Path:
        path = self.run.path / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    @abstractmethod
    def _arguments(self) -> list[str | Path]:
        """Write the configuration and return the program's arguments."""

    @abstractmethod
    def _is_ready(self) -> bool: ...


class PgBouncer(_Proxy):
    """A pool before one PostgreSQL, with the database, user and password of that.

    pool_mode: PgBouncer's: "session", "transaction" or "statement".
    tls: as for `MariadbServer`; clients may still come without.
    """

    program = "pgbouncer"

    def __init__(
        self, upstream: PostgresNode, *, pool_mode: str = "transaction", tls: Tls = None
    ) -> None:
        super().__init__()
        self._upstream = upstream
        self._pool_mode = pool_mode
        self._certificate: Certificate | None = make_certificate(tls, [self.address], self.run)

    @property
    def certificate(self) -> Path:
        """The PEM file for clients to verify it with."""
        assert self._certificate is not None, "give PgBouncer tls=True"
        return self._certificate.certificate

    def url(self, driver: str = "psycopg") -> str:
        """Return its SQLAlchemy URL: the upstream's with another address and port."""
        old, new = (f"@{end.address}:{end.port}/" for end in (self._upstream, self))
        return self._upstream.url(driver).replace(old, new)

    def _arguments(self) -> list[str | Path]:
        up = self._upstream
        password = (up.password or "").replace('"', '""')
        users = self._write("users", f'"{up.user}" "{password}"\n')
        settings = {
            "listen_addr": self.address,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust" if up.password is None else "scram-sha-256",
            "auth_file": users,
            "pool_mode": self._pool_mode,
            **self._tls_to_client(),
            **self._tls_to_server(),
        }
        lines = [
            "[databases]",
            f"* = host={up.address} port={up.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        return [self._write("pgbouncer.ini", "\n".join(lines) + "\n")]

    def _tls_to_client(self) -> dict[str, object]:
        if self._certificate is None:
            return {}
        return {
            "client_tls_sslmode": "allow",
            "client_tls_cert_file": self._certificate.certificate,
            "client_tls_key_file": self._certificate.key,
        }

    def _tls_to_server(self) -> dict[str, object]:
        if self._upstream._certificate is None:
            return {}
        return {"server_tls_sslmode": "verify-ca", "server_tls_ca_file": self._upstream.certificate}

    def _is_ready(self) -> bool:
        return "process up" in self.log


class HAProxy(_Proxy):
    """Sends each connection to the first of several servers that passes its check.

    The check wants the first words of the server's protocol every 0.2 s, so that a stopped process
    fails it too. Two failures mark a server down and cut its connections; one pass brings it back.

    upstreams: all of one kind.
    """

    program = "haproxy"

    def __init__(self, upstreams: Sequence[MariadbNode | PostgresNode]) -> None:
        super().__init__()
        self._upstreams: tuple[MariadbNode | PostgresNode, ...] = tuple(upstreams)

    def states(self) -> list[str]:
        """Return what it holds each server for, in the order of `upstreams`: "UP" or "DOWN"."""
        header, *lines = self._command("show stat").lstrip("# ").splitlines()
        table = [
            dict(zip(header.split(","), line.split(","), strict=True)) for line in lines if line
        ]
        return [row["status"].split()[0] for row in table if row["svname"].startswith("s")]

    def _arguments(self) -> list[str | Path]:
        check = "mysql-check"
        if isinstance(self._upstreams[0], PostgresNode):
            check = f"pgsql-check user {self._upstreams[0].user}"
        servers = "\n".join(
            f"    server s{i} {up.address}:{up.port}" for i, up in enumerate(self._upstreams)
        )
        config = f"""\
global
    log stderr format raw local0 notice
    stats socket {self._control} mode 666
    noreuseport
    maxconn 500
defaults
    mode tcp
    log global
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout check 500ms
    retries 3
    option redispatch 1
listen databases
    bind {self.address}:{self.port}
    balance first
    option {check}
    default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""
        return ["-db", "-f", self._write("haproxy.cfg", config)]

    @property
    def _control(self) -> Path:
        return self.run.path / "control"

    def _is_ready(self) -> bool:
        """Whether it answers on its control socket, which it does once it has its port."""
        try:
            return f"Pid: {self._pid()}\n" in self._command("show info")
        except OSError:
            return False

    def _pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def _command(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(self._control))
            s.sendall(f"{command}\n".encode())
            with s.makefile() as answer:
                return answer.read()
