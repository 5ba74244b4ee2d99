"""The verdicts, as a table, for errors that need no server to be made."""

import psycopg
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, OperationalError

from datakit.db import Verdict, classify
from datakit.errors import (
    CommitUnknownError,
    NameNotFoundError,
    ResolveTimeoutError,
    ServerFailureError,
)

REFUSED = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: '


def driver_error(sqlstate: str, message: str = "x") -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)(message)


@pytest.mark.parametrize(
    ("sqlstate", "verdict"),
    [
        ("08001", Verdict.NOT_SENT),
        ("08004", Verdict.NOT_SENT),
        ("57P03", Verdict.NOT_SENT),
        ("53300", Verdict.OVERLOAD),
        ("08003", Verdict.DISCONNECT),
        ("08006", Verdict.DISCONNECT),
        ("57P01", Verdict.DISCONNECT),
        ("57P02", Verdict.DISCONNECT),
        ("57P05", Verdict.DISCONNECT),
        ("25P03", Verdict.DISCONNECT),
        ("25006", Verdict.WRITER_MOVED),
        ("40001", Verdict.CONFLICT),
        ("40P01", Verdict.CONFLICT),
        ("28P01", Verdict.AUTH),
        ("28000", Verdict.AUTH),
        ("08007", Verdict.COMMIT_UNKNOWN),
        ("57014", Verdict.FATAL),
        ("55P03", Verdict.FATAL),
        ("22012", Verdict.FATAL),
        ("23505", Verdict.FATAL),
        ("42601", Verdict.FATAL),
        ("3D000", Verdict.FATAL),
    ],
)
def test_an_sqlstate_has_its_verdict_bare_and_wrapped(sqlstate: str, verdict: Verdict) -> None:
    error = driver_error(sqlstate)
    assert classify(error) is verdict
    assert classify(DBAPIError("SELECT 1", {}, error)) is verdict


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (REFUSED + "Connection refused", Verdict.NOT_SENT),
        (REFUSED + "server closed the connection unexpectedly", Verdict.NOT_SENT),
        (REFUSED + "FATAL:  the database system is starting up", Verdict.NOT_SENT),
        (REFUSED + "FATAL:  the database system is shutting down", Verdict.NOT_SENT),
        (REFUSED + "FATAL:  sorry, too many clients already", Verdict.OVERLOAD),
        (REFUSED + "FATAL:  remaining connection slots are reserved", Verdict.OVERLOAD),
        (REFUSED + 'FATAL:  password authentication failed for user "app"', Verdict.AUTH),
        (REFUSED + "fe_sendauth: no password supplied", Verdict.AUTH),
        (REFUSED + 'FATAL:  database "nope" does not exist', Verdict.FATAL),
        (REFUSED + "server does not support SSL, but SSL was required", Verdict.FATAL),
        (REFUSED + "SSL error: certificate verify failed", Verdict.FATAL),
        ("connection timeout expired", Verdict.NOT_SENT),
        ("failed to resolve host 'db': no address", Verdict.NOT_SENT),
        ("the connection is closed", Verdict.DISCONNECT),
        ("consuming input failed: server closed the connection", Verdict.DISCONNECT),
        ("Timed-out waiting to acquire database connection", Verdict.NOT_SENT),
        (
            "IAM authentication failed because of too many competing requests",
            Verdict.OVERLOAD,
        ),
        ("IAM authentication failed for user app", Verdict.AUTH),
        ("Rate of connection to proxy exceeded", Verdict.OVERLOAD),
    ],
)
def test_a_message_without_a_code_has_its_verdict(message: str, verdict: Verdict) -> None:
    assert classify(psycopg.OperationalError(message)) is verdict


def test_the_proxys_message_counts_more_than_its_code() -> None:
    error = driver_error("08000", "Timed-out waiting to acquire database connection")
    assert classify(error) is Verdict.NOT_SENT


def test_an_invalidated_connection_is_a_disconnect() -> None:
    lost = OperationalError("SELECT 1", {}, Exception("gone"), connection_invalidated=True)
    assert classify(lost) is Verdict.DISCONNECT


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (CommitUnknownError("lost"), Verdict.COMMIT_UNKNOWN),
        (ResolveTimeoutError("silent"), Verdict.NOT_SENT),
        (ServerFailureError("broken"), Verdict.NOT_SENT),
        (NameNotFoundError("gone"), Verdict.NOT_SENT),
        (ValueError("the caller's own"), Verdict.FATAL),
        (psycopg.ProgrammingError("bad value"), Verdict.FATAL),
    ],
)
def test_other_errors(error: BaseException, verdict: Verdict) -> None:
    assert classify(error) is verdict


@given(st.text(alphabet="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5))
def test_every_code_has_a_verdict(sqlstate: str) -> None:
    error = psycopg.DatabaseError("x")
    error.sqlstate = sqlstate
    assert isinstance(classify(error), Verdict)


MYSQL = [
    ((2003, "Can't connect to MySQL server"), Verdict.NOT_SENT),
    ((2005, "Unknown host"), Verdict.NOT_SENT),
    ((9501, "Timed-out waiting to acquire database connection"), Verdict.NOT_SENT),
    ((1040, "Too many connections"), Verdict.OVERLOAD),
    ((1040, "IAM authentication failed because of too many competing requests"), Verdict.OVERLOAD),
    ((1203, "User has more than max_user_connections"), Verdict.OVERLOAD),
    ((2006, "MySQL server has gone away"), Verdict.DISCONNECT),
    ((2013, "Lost connection to MySQL server during query"), Verdict.DISCONNECT),
    ((1927, "Connection was killed"), Verdict.DISCONNECT),
    ((1053, "Server shutdown in progress"), Verdict.DISCONNECT),
    ((1160, "Got an error writing communication packets"), Verdict.DISCONNECT),
    ((2012, "Error in server handshake"), Verdict.DISCONNECT),
    ((1836, "Running in read-only mode"), Verdict.WRITER_MOVED),
    ((1290, "The MySQL server is running with the --read-only option"), Verdict.WRITER_MOVED),
    ((1290, "The MySQL server is running with the --secure-file-priv option"), Verdict.FATAL),
    ((1792, "Cannot execute statement in a READ ONLY transaction"), Verdict.WRITER_MOVED),
    ((1213, "Deadlock found"), Verdict.CONFLICT),
    ((1205, "Lock wait timeout exceeded"), Verdict.CONFLICT),
    ((1045, "Access denied for user"), Verdict.AUTH),
    ((2026, "TLS is required, but the server does not offer it"), Verdict.FATAL),
    ((3159, "Connections using insecure transport are prohibited"), Verdict.FATAL),
    ((3024, "maximum statement execution time exceeded"), Verdict.FATAL),
    ((1317, "Query execution was interrupted"), Verdict.FATAL),
    ((1062, "Duplicate entry"), Verdict.FATAL),
    ((1064, "You have an error in your SQL syntax"), Verdict.FATAL),
    (("Not connected",), Verdict.DISCONNECT),
    (("Already closed",), Verdict.DISCONNECT),
    (("No such thing",), Verdict.FATAL),
    ((), Verdict.FATAL),
]


@pytest.mark.parametrize(("args", "verdict"), MYSQL)
def test_mysql_errors_go_by_their_number(args: tuple[object, ...], verdict: Verdict) -> None:
    bare = pymysql.err.OperationalError(*args)
    assert classify(bare) is verdict
    assert classify(OperationalError("SELECT 1", {}, bare)) is verdict
