"""Which servers a cluster has, as it tells itself.

Sources: Aurora User Guide, `aurora_replica_status` and `replica_host_status`; RDS User Guide,
"Multi-AZ DB cluster deployments", `show_topology` and `rds_topology`.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection

from datakit.db.classification import classify
from datakit.resilience import Verdict

MAX_MEMBERS: Final = 32
"""An Aurora cluster has 16."""

_AURORA: Final = {
    "postgresql": (
        "SELECT server_id, session_id = 'MASTER_SESSION_ID' FROM aurora_replica_status() "
        "WHERE extract(epoch FROM now() - last_update_timestamp) <= 300 "
        "OR session_id = 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL"
    ),
    "mysql": (
        "SELECT server_id, session_id = 'MASTER_SESSION_ID' "
        "FROM information_schema.replica_host_status "
        "WHERE time_to_sec(timediff(now(), last_update_timestamp)) <= 300 "
        "OR session_id = 'MASTER_SESSION_ID'"
    ),
}
"""Gives instance ids, and which is the writer's; without those not heard of for 300 s."""

_MULTI_AZ: Final = {
    "postgresql": (
        "SELECT endpoint, id = (SELECT multi_az_db_cluster_source_dbi_resource_id "
        "FROM rds_tools.multi_az_db_cluster_source_dbi_resource_id()), port "
        "FROM rds_tools.show_topology('datakit')"
    ),
    "mysql": "SELECT endpoint, NULL, port FROM mysql.rds_topology",
}
"""Gives host names and ports; MySQL's does not tell the writer to a reader."""

_CANCELED: Final = ("57014", 1317, 1969, 3024)
"""A statement that took too long, or was killed. Source: PostgreSQL's SQLSTATEs; MySQL's and
MariaDB's error numbers."""

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_HOST: Final = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*\.?")


class Member(NamedTuple):
    """A server of a cluster. port: None for that of the endpoint."""

    host: str
    writes: bool
    port: int | None = None


def members(rows: Iterable[Sequence[Any]], template: str | None) -> tuple[Member, ...]:
    """Return the members that rows of (id or host, is writer, [port]) name, the writer first.

    template: the host name of an instance, with "?" for its id; None when rows hold host names.
    What is no name is left out.
    """
    found = []
    for name, writes, *rest in rows:
        form = _HOST if template is None else _LABEL
        if isinstance(name, str) and form.fullmatch(name):
            host = name if template is None else template.replace("?", name)
            found.append(Member(host.rstrip(".").lower(), bool(writes), *map(int, rest)))
    return tuple(sorted(found, key=lambda member: not member.writes))[:MAX_MEMBERS]


class Topology:
    """Asks servers for their cluster's members.

    template: of the instances' host names; None where it is not known.
    """

    def __init__(self, template: str | None) -> None:
        self._template = template
        self._works: bool | None = None
        self._query: tuple[str, str | None] | None = None

    def ask(self, dialect: Dialect, connection: DBAPIConnection) -> tuple[Member, ...]:
        """Return the members as the server of a new connection knows them; () if it does not.

        A server that has never heard of topologies is not asked again; one that only failed to
        answer is.

        Raises:
            dialect.loaded_dbapi.Error: the link was lost.
        """
        if self._works is False:
            return ()
        may_know = False
        for query in [self._query] if self._query else self._queries(dialect):
            sql, template = query
            try:
                rows = _fetched(connection, sql)
            except dialect.loaded_dbapi.Error as exc:
                if dialect.is_disconnect(exc, connection, None):
                    raise
                connection.rollback()
                may_know = may_know or _may_pass(exc)
                continue
            connection.rollback()
            self._works, self._query = True, query
            return members(rows, template)
        if not may_know:
            self._works = bool(self._works)
        return ()

    def _queries(self, dialect: Dialect) -> list[tuple[str, str | None]]:
        family = "postgresql" if dialect.name == "postgresql" else "mysql"
        aurora = [(_AURORA[family], self._template)] if self._template else []
        return [*aurora, (_MULTI_AZ[family], None)]


def _may_pass(exc: Exception) -> bool:
    """Return whether the server might have answered at another time."""
    codes = {getattr(exc, "sqlstate", None), *exc.args[:1]}
    return not codes.isdisjoint(_CANCELED) or classify(exc) is not Verdict.FATAL


def _fetched(connection: DBAPIConnection, sql: str) -> Sequence[Any]:
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
