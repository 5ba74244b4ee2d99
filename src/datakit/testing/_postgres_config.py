"""The configuration files of a test server: fast where a test cannot see it, strict elsewhere."""

from collections.abc import Sequence

from datakit.testing._certificate import Certificate

_LOOPBACK = "127.0.0.0/8"

_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "fsync": "off",  # a SIGKILL loses nothing that has reached the kernel
    "synchronous_commit": "on",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "wal_keep_size": "512MB",
    "wal_retrieve_retry_interval": "100ms",
    "hot_standby": "on",
    "dynamic_shared_memory_type": "mmap",  # a SIGKILL would leave POSIX segments in /dev/shm
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}


def access_rules(*, password: bool, tls: bool) -> str:
    """Return the text of pg_hba.conf: `postgres` is trusted, the others as the arguments say.

    password: whether the others need theirs: in clear text and only over TLS if there is `tls`,
        as the clouds' token logins have it, else by SCRAM.
    """
    if not password:
        others = f"host all all {_LOOPBACK} trust"
    elif tls:
        others = f"hostssl all all {_LOOPBACK} password"
    else:
        others = f"host all all {_LOOPBACK} scram-sha-256"
    return f"host all,replication postgres {_LOOPBACK} trust\n{others}\n"


def server_config(
    *,
    address: str,
    port: int,
    upstream: str | None = None,
    synchronous: Sequence[str] = (),
    certificate: Certificate | None = None,
) -> str:
    """Return the text of postgresql.conf.

    upstream: address of the server to stream from, at the same port; None for a primary.
    synchronous: addresses of the standbys of which one must confirm each commit.
    certificate: what to speak TLS with.
    """
    names = ", ".join(f'"{name}"' for name in synchronous)
    settings = {
        **_SETTINGS,
        "listen_addresses": address,
        "port": str(port),
        "cluster_name": address,
        "synchronous_standby_names": f"FIRST 1 ({names})" if names else "",
    }
    if certificate is not None:
        settings |= {
            "ssl": "on",
            "ssl_cert_file": str(certificate.certificate),
            "ssl_key_file": str(certificate.key),
        }
    if upstream is not None:
        settings["primary_conninfo"] = (
            f"host={upstream} port={port} user=postgres application_name={address} sslmode=disable"
        )
    return "".join(f"{name} = '{value}'\n" for name, value in settings.items())
