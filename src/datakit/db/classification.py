"""What a database error means for trying again. Pure; knows drivers by their errors' attributes.

Sources: PostgreSQL documentation, appendix A (error codes); RDS Proxy documentation
(troubleshooting) for the proxy's messages; libpq's messages for failures to connect, which
carry no SQLSTATE.
"""

import re

from sqlalchemy.exc import DBAPIError

from datakit.errors import (
    CommitUnknownError,
    NameNotFoundError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience.verdict import Verdict

SQLSTATES: dict[str, Verdict] = {
    "08001": Verdict.NOT_SENT,  # client unable to connect
    "08004": Verdict.NOT_SENT,  # server rejected the connection
    "57P03": Verdict.NOT_SENT,  # cannot connect now: starting up
    "08007": Verdict.COMMIT_UNKNOWN,  # transaction resolution unknown
    "53300": Verdict.OVERLOAD,  # too many connections
    "57P01": Verdict.DISCONNECT,  # admin shutdown
    "57P02": Verdict.DISCONNECT,  # crash shutdown
    "57P05": Verdict.DISCONNECT,  # idle session timeout
    "25P03": Verdict.DISCONNECT,  # idle in transaction timeout
    "25006": Verdict.WRITER_MOVED,  # read-only transaction
    "40001": Verdict.CONFLICT,  # serialization failure
    "40P01": Verdict.CONFLICT,  # deadlock
    "28P01": Verdict.AUTH,  # invalid password
    "28000": Verdict.AUTH,  # invalid authorization
}
"""Whole codes; a class counts where its code is not listed."""

CLASSES: dict[str, Verdict] = {"08": Verdict.DISCONNECT}

PROXY_MESSAGES: tuple[tuple[str, Verdict], ...] = (
    ("Timed-out waiting to acquire", Verdict.NOT_SENT),
    ("too many competing requests", Verdict.OVERLOAD),
    ("Rate of connection to proxy exceeded", Verdict.OVERLOAD),
    ("IAM authentication failed for", Verdict.AUTH),
)
"""What RDS Proxy says, whatever code it says it with."""

CONNECT_MESSAGES: tuple[tuple[str, Verdict], ...] = (
    ("the database system is", Verdict.NOT_SENT),  # starting up, shutting down, in recovery
    ("terminating connection", Verdict.NOT_SENT),
    ("too many c", Verdict.OVERLOAD),  # clients already, connections for role or database
    ("remaining connection slots", Verdict.OVERLOAD),
    ("password authentication failed", Verdict.AUTH),
    ("no password supplied", Verdict.AUTH),
    ("FATAL:", Verdict.FATAL),
    ("certificate", Verdict.FATAL),
    ("SSL was required", Verdict.FATAL),
    ("root certificate file", Verdict.FATAL),
)
"""What libpq says when no connection comes about, in the order to look; anything else is the
network's doing and NOT_SENT."""

MYSQL_DRIVERS = frozenset({"pymysql", "aiomysql"})

MYSQL_CODES: dict[int, Verdict] = {
    **dict.fromkeys((2001, 2002, 2003, 2004, 2005, 9501), Verdict.NOT_SENT),
    **dict.fromkeys((1040, 1203), Verdict.OVERLOAD),
    **dict.fromkeys(
        (1053, 1158, 1159, 1160, 1161, 1927, 2006, 2012, 2013, 2014, 2045, 2055, 4031),
        Verdict.DISCONNECT,
    ),
    1836: Verdict.WRITER_MOVED,  # read-only mode
    1792: Verdict.WRITER_MOVED,  # read-only transaction
    1205: Verdict.CONFLICT,  # lock wait timeout
    1213: Verdict.CONFLICT,  # deadlock
    1045: Verdict.AUTH,  # access denied
}
"""PyMySQL's and aiomysql's error numbers; any other is final. Source: MySQL and MariaDB error
references; RDS Proxy documentation for 9501 (borrow timeout) and 1040 (its rate limit)."""

MYSQL_READ_ONLY_OPTION = 1290
"""The server runs with an option that forbids it: --read-only, or one that has nothing to do
with failovers."""

MYSQL_LINK_MESSAGES = ("Already closed", "Not connected", "Packet sequence number wrong")
"""What the drivers say of a link that is gone, without a number."""

OWN_FAULT = "datakit_own_fault"
"""Set on the driver's error where a write was refused that was sent to where none is taken."""

LINK_ERRORS = frozenset({"OperationalError", "ConnectionTimeout", "DatabaseError"})
"""Names of psycopg's classes that, without an SQLSTATE, speak of the link and not of the work."""

_CONNECTING = re.compile(r"connection (failed|is bad|timeout expired)|failed to resolve host")


def classify(exc: BaseException) -> Verdict:
    """Return what `exc`, SQLAlchemy's or the driver's, means for trying again.

    Anything that is no database error is FATAL: it is the caller's own.
    """
    if isinstance(exc, CommitUnknownError):
        return Verdict.COMMIT_UNKNOWN
    if isinstance(exc, ResolveTimeoutError | ServerFailureError | NameNotFoundError):
        return Verdict.NOT_SENT
    if isinstance(exc, DBAPIError):
        verdict = _driver_verdict(exc.orig) if exc.orig is not None else Verdict.FATAL
        lost = exc.connection_invalidated and verdict is Verdict.FATAL
        return Verdict.DISCONNECT if lost else verdict
    return _driver_verdict(exc)


def _driver_verdict(exc: BaseException) -> Verdict:
    if hasattr(exc, OWN_FAULT):
        return Verdict.FATAL
    package = type(exc).__module__.partition(".")[0]
    if package in MYSQL_DRIVERS:
        return _mysql_verdict(exc)
    if package != "psycopg":
        return Verdict.FATAL
    message = str(exc)
    for text, verdict in PROXY_MESSAGES:
        if text in message:
            return verdict
    sqlstate: str | None = getattr(exc, "sqlstate", None)
    if sqlstate:
        return SQLSTATES.get(sqlstate) or CLASSES.get(sqlstate[:2], Verdict.FATAL)
    if type(exc).__name__ not in LINK_ERRORS:
        return Verdict.FATAL
    return _connect_verdict(message) if _CONNECTING.match(message) else Verdict.DISCONNECT


def _mysql_verdict(exc: BaseException) -> Verdict:
    """Return what one of PyMySQL's errors means: (errno, text), or a text alone."""
    code = exc.args[0] if exc.args else None
    message = str(exc)
    for text, verdict in PROXY_MESSAGES:
        if text in message:
            return verdict
    if not isinstance(code, int):
        lost = any(text in message for text in MYSQL_LINK_MESSAGES)
        return Verdict.DISCONNECT if lost else Verdict.FATAL
    if code == MYSQL_READ_ONLY_OPTION:
        return Verdict.WRITER_MOVED if "read-only" in message else Verdict.FATAL
    return MYSQL_CODES.get(code, Verdict.FATAL)


def _connect_verdict(message: str) -> Verdict:
    for text, verdict in CONNECT_MESSAGES:
        if text in message:
            return verdict
    return Verdict.NOT_SENT
