"""How far a writer has come, and whether a reader has got there.

Sources: PostgreSQL documentation, "Recovery Information Functions"; MariaDB documentation, "Global
Transaction ID", `MASTER_GTID_WAIT`.
"""

from sqlalchemy import Connection, Engine, text

from datakit.errors import ConfigError

_POSTGRESQL = text("SELECT pg_current_wal_insert_lsn()::text")
_POSTGRESQL_REACHED = text(
    "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= CAST(:position AS pg_lsn)"
)
_MARIADB = text("SELECT @@gtid_binlog_pos")
_MARIADB_REACHED = text("SELECT master_gtid_wait(:position, 0) = 0 OR NOT @@read_only")


def position_of(writer: Engine) -> str:
    """Return how far `writer` has come: all that was committed before is behind it."""
    with writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return str(connection.scalar(_POSTGRESQL if _is_postgresql(connection) else _MARIADB))


def has_reached(reader: Connection, position: str) -> bool:
    """Return whether the server of `reader` has got as far as `position`; end the transaction."""
    reached = _POSTGRESQL_REACHED if _is_postgresql(reader) else _MARIADB_REACHED
    try:
        return bool(reader.scalar(reached, {"position": position}))
    finally:
        reader.rollback()


def _is_postgresql(connection: Connection) -> bool:
    dialect = connection.dialect
    if dialect.name != "postgresql" and not getattr(dialect, "is_mariadb", False):
        raise ConfigError("read_your_writes needs PostgreSQL or MariaDB")
    return dialect.name == "postgresql"
