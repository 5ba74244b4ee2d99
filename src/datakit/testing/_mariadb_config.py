"""The options of a test MariaDB: fast where a test cannot see it, strict elsewhere."""

import re
from pathlib import Path
from typing import NamedTuple

from datakit.errors import ConfigError
from datakit.testing._certificate import Certificate

STORAGE = (
    "--innodb-log-file-size=4M",
    "--innodb-flush-method=nosync",  # a SIGKILL loses nothing that has reached the kernel
)
"""What the files must be made and used with alike."""

_SETTINGS = (
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--innodb-buffer-pool-size=16M",
    "--innodb-temp-data-file-path=ibtmp1:1M:autoextend",
    "--aria-pagecache-buffer-size=8M",
    "--key-buffer-size=1M",
    "--innodb-flush-log-at-trx-commit=1",  # a commit is in the kernel when it returns
)

_REPLICATION = (
    "--log-bin=binlog",  # kept whole, so that a new replica can be made from it alone
    "--log-slave-updates",
    "--binlog-format=ROW",
    "--sync-binlog=0",  # as above: written at each commit, and the kernel outlives the server
    "--relay-log=relay",
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    "--rpl-semi-sync-master-timeout=86400000",  # ms: longer than any test
)

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Replication(NamedTuple):
    """A server's part in a cluster.

    server_id: its own in the cluster, from 1.
    acknowledged: whether it waits, as the primary, until a replica has a commit in its relay log.
    acknowledges: whether it says so to its primary.
    """

    server_id: int
    acknowledged: bool = False
    acknowledges: bool = False


def check_account(owner: str, database: str, user: str, password: str | None) -> None:
    """Refuse what is no database, user or password of the class `owner`.

    Raises:
        ConfigError: one of them is out of range.
    """
    for option, name in (("database", database), ("user", user)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{owner}({option}={name!r}): use a-z, 0-9 and _")
    if user == "root":
        raise ConfigError(f"{owner}(user='root'): root is its superuser, see query()")
    if password == "":
        raise ConfigError(f"{owner}(password=''): give None for a user without password")


def server_options(
    directory: Path,
    *,
    address: str,
    port: int,
    read_only: bool = False,
    certificate: Certificate | None = None,
    replication: Replication | None = None,
) -> list[str]:
    """Return the arguments of a mariadbd whose data is in `directory`/data."""
    options = [
        "--no-defaults",  # must be the first
        *STORAGE,
        *_SETTINGS,
        f"--datadir={directory / 'data'}",
        f"--tmpdir={directory}",
        f"--socket={socket_path(directory)}",
        f"--pid-file={directory / 'pid'}",
        f"--bind-address={address}",
        f"--port={port}",
        f"--read-only={int(read_only)}",
    ]
    if certificate is not None:
        options += [f"--ssl-cert={certificate.certificate}", f"--ssl-key={certificate.key}"]
    if replication is not None:
        options += [
            *_REPLICATION,
            f"--server-id={replication.server_id}",
            f"--rpl-semi-sync-master-enabled={int(replication.acknowledged)}",
            f"--rpl-semi-sync-slave-enabled={int(replication.acknowledges)}",
        ]
    return options


def socket_path(directory: Path) -> Path:
    """Return where the server takes its superuser's connections."""
    return directory / "socket"
