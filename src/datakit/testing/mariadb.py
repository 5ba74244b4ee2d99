"""A MariaDB server of one's own."""

from typing import Self

from datakit.errors import ConfigError
from datakit.testing._binaries import find_mariadb
from datakit.testing._certificate import Tls, check_tls, make_certificate
from datakit.testing._mariadb_config import check_account
from datakit.testing._ports import launch_on_free_port
from datakit.testing._run_directory import RunDirectory
from datakit.testing._with_block import WithBlock
from datakit.testing.mariadb_node import MariadbNode


class MariadbServer(MariadbNode, WithBlock):
    """One mariadbd, the system's, on a loopback port, for as long as the `with` block.

    address, port: where it listens; a free port when none is given.
    database: the one database.
    user: has all rights on it, from any host, and none beyond, so that `read_only` binds it.
    password: of `user`; None for none.
    tls: the paths of a certificate and its key, or True for a self-signed pair that is for
        `address` and `db.shop.internal`. Connections without TLS are taken still.
    read_only: whether it starts so, as a replica does; `set_read_only(False)` ends it.

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
        check_account("MariadbServer", database, user, password)
        check_tls("MariadbServer", tls)
        super().__init__(
            address,
            port or 0,
            database=database,
            user=user,
            password=password,
            read_only=read_only,
        )
        self._wanted_port = port
        self._tls = tls

    def start(self) -> Self:
        """Start it; return itself when it takes connections.

        Raises:
            ConfigError: it runs already, or MariaDB is not installed.
            RuntimeError: it ended at once; the message holds its log.
            TimeoutError: it was not ready within 30 s.
        """
        if self._run is not None:
            raise ConfigError(f"{self!r} is started already: close() it first")
        find_mariadb()
        self._run = run = RunDirectory()
        try:
            self._place(run, make_certificate(self._tls, [self.address], run))
            launch_on_free_port(self._start_on, [self.address], self._wanted_port)
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
