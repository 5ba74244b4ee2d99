"""What in a statement makes RDS Proxy pin its session to one database connection. Pure.

A pinned session keeps its connection until the client leaves, and the proxy shares it no more.

Source: Amazon RDS and Aurora user guides, "Avoiding pinning an RDS Proxy".
"""

import re
from functools import cache
from typing import NamedTuple

from datakit.errors import ConfigError

MAX_BYTES = 16 * 1024
"""A longer text pins on its own, whatever it says."""


class PinningCause(NamedTuple):
    """Why a session gets pinned; `name` is stable, `fix` says what to write instead."""

    name: str
    why: str
    fix: str


class PinningWarning(UserWarning):
    """A statement pins its session; `cause` says why, `place` is the caller's "file:line"."""

    def __init__(self, cause: PinningCause, place: str) -> None:
        super().__init__(
            f"RDS Proxy pins the session to one connection ({cause.name}) for the statement at "
            f"{place}: {cause.why}. {cause.fix}"
        )
        self.cause = cause
        self.place = place

    def __reduce__(self) -> tuple[type["PinningWarning"], tuple[PinningCause, str]]:
        return PinningWarning, (self.cause, self.place)


STATEMENT_OVER_16_KB = PinningCause(
    "statement_over_16_kb",
    "its text is longer than 16 KB",
    "Send fewer rows in a statement (insertmanyvalues_page_size) and long values as parameters.",
)
SESSION_SET = PinningCause(
    "session_set",
    "it changes a setting of the session",
    "Use SET LOCAL in the transaction, or the proxy's initialization query.",
)
SET_CONFIG = PinningCause(
    "set_config",
    "set_config() changes a setting, and the proxy does not tell for how long",
    "Use SET LOCAL in the transaction.",
)
SYSTEM_VARIABLE = PinningCause(
    "session_set",
    "it sets a variable that the proxy does not track",
    "Set it in the proxy's initialization query; write SET SESSION TRANSACTION for an isolation "
    "level, since SET TRANSACTION alone pins.",
)
USER_VARIABLE = PinningCause(
    "user_variable",
    "it uses a variable of the session",
    "Keep the value in the program and pass it as a parameter, or use a CTE.",
)
PREPARED_STATEMENT = PinningCause(
    "prepared_statement",
    "a statement prepared with SQL belongs to one connection",
    "Send the statement itself with its parameters.",
)
DISCARD = PinningCause(
    "discard",
    "DISCARD changes the session",
    "Leave it out, in the pool's reset too: ROLLBACK is enough where no state is kept.",
)
TEMPORARY_TABLE = PinningCause(
    "temporary_table",
    "a temporary table, view or sequence belongs to one connection",
    "Use a CTE, or an ordinary table with a key of the job.",
)
CURSOR = PinningCause(
    "cursor",
    "a cursor on the server belongs to one connection",
    "Fetch pages by key (WHERE id > ... ORDER BY id LIMIT ...), without stream_results.",
)
LISTEN = PinningCause(
    "listen",
    "LISTEN subscribes one connection",
    "Listen on a connection to the database itself, past the proxy.",
)
LOAD = PinningCause(
    "load",
    "LOAD brings a library into one connection",
    "Name the library in session_preload_libraries of the parameter group.",
)
SEQUENCE_FUNCTION = PinningCause(
    "sequence_function",
    "nextval() and setval() leave state in the session",
    "Let an identity column or a column default draw the number, and read it with RETURNING.",
)
ADVISORY_LOCK = PinningCause(
    "advisory_lock",
    "a session's advisory lock belongs to one connection",
    "Use pg_advisory_xact_lock or pg_try_advisory_xact_lock, which end with the transaction.",
)
NAMED_LOCK = PinningCause(
    "named_lock",
    "a lock of GET_LOCK belongs to one connection",
    "Lock a row with SELECT ... FOR UPDATE in the transaction.",
)
TABLE_LOCK = PinningCause(
    "table_lock",
    "a table lock belongs to one connection",
    "Lock the rows with SELECT ... FOR UPDATE in the transaction.",
)
ROW_COUNT = PinningCause(
    "row_count",
    "FOUND_ROWS() and ROW_COUNT() ask about the statement before",
    "Use the cursor's rowcount, or SELECT COUNT(*).",
)
EXECUTABLE_COMMENT = PinningCause(
    "executable_comment",
    "the proxy cannot read SQL in an executable comment",
    "Write the SQL without /*! */.",
)

_PAREN = r"\((?:[^()]|\((?:[^()]|\([^()]*+\))*+\))*+\)"
_VALUE = rf"[^,;()]*+(?:{_PAREN}[^,;()]*+)*+"
_TRACKED = (
    "autocommit|auto_increment_increment|character_set_(?:client|connection|database|filesystem"
    "|results|server)|collation_(?:connection|database|server)|interactive_timeout"
    "|net_write_timeout|query_cache_type|session_track_schema|sql_mode|time_zone|wait_timeout"
)
_ELSEWHERE = "local|global|persist|persist_only"  # not of the session, or said not to pin
_HARMLESS = (
    r"(?:names|char(?:acter)? set|charset|session transaction|isolation level|read (?:only|write)"
    rf"|(?:session |@@ (?:session \. )?)?(?:{_TRACKED})"
    r"|(?:session |@@ session \. )?(?:transaction|tx)_(?:isolation|read_only)"
    rf"|(?:{_ELSEWHERE})|@@ (?:{_ELSEWHERE}) \.|@) {_VALUE}"
)
"""An assignment of MySQL's SET that is tracked, or is another rule's."""

_Table = tuple[tuple[PinningCause, str], ...]

_PG_CALL = r"(?:(?<! \.)|(?<= pg_catalog \.)) "
_INTO = r"(?<! insert)(?<! merge) into"
_NAMED_TEMP = (  # INTO temp FROM ... makes an ordinary table `temp`
    r"(?!from |where |group |having |order |limit |offset |fetch |for |union |window )[\w\"]"
)

_POSTGRESQL: _Table = (
    (SESSION_SET, r"; (?:set (?!local |transaction |constraints )|reset )"),
    (SET_CONFIG, rf"{_PG_CALL}set_config \("),
    (PREPARED_STATEMENT, r"; (?:prepare (?!transaction )|execute |deallocate )"),
    (DISCARD, r"; discard "),
    (TEMPORARY_TABLE, r"; create (?:or replace )?(?:global |local )?temp(?:orary)? "),
    (TEMPORARY_TABLE, r"; create (?:unlogged )?\w+ (?:if not exists )?pg_temp \. "),
    (TEMPORARY_TABLE, rf"{_INTO} (?:local |global )?temp(?:orary)? {_NAMED_TEMP}"),
    (CURSOR, r"; declare [^;]*?cursor "),
    (LISTEN, r"; listen "),
    (LOAD, r"; load "),
    (SEQUENCE_FUNCTION, rf"(?<! default){_PG_CALL}(?:nextval|setval) \("),
    (ADVISORY_LOCK, rf"{_PG_CALL}pg_(?:try_)?advisory_(?:un)?lock(?:_shared|_all)? \("),
)
_MYSQL: _Table = (
    (EXECUTABLE_COMMENT, r" /\*! "),
    (
        SYSTEM_VARIABLE,
        rf"; set (?!(?:{_HARMLESS})(?:, {_HARMLESS})*+;)"
        r"(?!statement |password |default role |resource group )",
    ),
    (USER_VARIABLE, r" @ [\w'\"`.$]"),
    (PREPARED_STATEMENT, r"; (?:prepare|execute|deallocate|drop prepare) "),
    (TEMPORARY_TABLE, r"; create (?:or replace )?temporary "),
    (TABLE_LOCK, r"; (?:lock tables? |flush tables? [^;]*?(?:with read lock|for export) )"),
    (NAMED_LOCK, r"(?<! \.) get_lock \("),
    (ROW_COUNT, r"(?<! \.) (?:found_rows|row_count) \("),
)
_POSTGRESQL_WORDS = (
    r"(?<![a-z])(?:(?:re)?set|prepare|execute|deallocate|discard|temp|pg_temp|declare|listen|load"
    r"|(?:next|set)val|pg_(?:try_)?advisory_(?:un)?lock)"
)
_MYSQL_WORDS = (
    r"@|/\*m?!|(?<![a-z])(?:set|prepare|execute|deallocate|drop|temporary|lock|flush|get_lock"
    r"|found_rows|row_count)"
)


_Patterns = tuple[tuple[PinningCause, re.Pattern[str]], ...]


def causes(sql: str, dialect: str) -> tuple[PinningCause, ...]:
    """Return what in `sql` pins a session, each cause once; empty for the usual statement.

    sql: one or several statements as the driver sends them. dialect: "postgresql", "mysql" or
    "mariadb". What a called function or a DO block does is not seen, by the proxy neither.

    Raises:
        ConfigError: RDS Proxy does not speak `dialect`.
    """
    suspect = _suspect(dialect)
    found = [STATEMENT_OVER_16_KB] if _is_long(sql) else []
    if suspect.search(sql.lower()):
        from datakit.db.sql_outline import outline  # not needed before the first suspect

        found += _matching(_patterns(dialect), outline(sql, dialect))
    return tuple(dict.fromkeys(found))


def _is_long(sql: str) -> bool:
    if len(sql) <= MAX_BYTES // 4:
        return False
    return len(sql) > MAX_BYTES or len(sql.encode("utf-8", "surrogatepass")) > MAX_BYTES


def _matching(patterns: _Patterns, text: str) -> list[PinningCause]:
    bare = text.replace("/*! ", "")
    return [
        cause
        for cause, pattern in patterns
        if pattern.search(text if cause is EXECUTABLE_COMMENT else bare)
    ]


@cache
def _suspect(dialect: str) -> re.Pattern[str]:
    """Return what finds the texts worth a look, in lower case."""
    if dialect == "postgresql":
        return re.compile(_POSTGRESQL_WORDS)
    if dialect in {"mysql", "mariadb"}:
        return re.compile(_MYSQL_WORDS)
    raise ConfigError(
        f"pinning is known for postgresql, mysql and mariadb, which RDS Proxy speaks, "
        f"not for {dialect!r}"
    )


@cache
def _patterns(dialect: str) -> _Patterns:
    """Return the rules of `dialect`, compiled for the first suspect."""
    table = _POSTGRESQL if dialect == "postgresql" else _MYSQL
    return tuple((cause, re.compile(pattern)) for cause, pattern in table)
