"""The options of a test MariaDB: fast where a test cannot see it, strict elsewhere."""

from pathlib import Path

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
)


def server_options(
    directory: Path,
    *,
    address: str,
    port: int,
    read_only: bool = False,
    certificate: Certificate | None = None,
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
    return options


def socket_path(directory: Path) -> Path:
    """Return where the server takes its superuser's connections."""
    return directory / "socket"
