"""What pins a session, as tables, and that nothing in a literal or a comment ever does."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.db.pinning import PinningWarning, causes
from datakit.errors import ConfigError

POSTGRESQL = [
    ("SET search_path = a", "session_set"),
    ("SET SESSION work_mem = '1MB'", "session_set"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "session_set"),
    ("SET TIME ZONE 'UTC'", "session_set"),
    ("RESET ALL", "session_set"),
    ("BEGIN; SELECT 1;\n set x = 1", "session_set"),
    ("CREATE FUNCTION f() RETURNS int AS $$ x $$ LANGUAGE sql; SET x = 1", "session_set"),
    ("SELECT set_config('a.b', 'c', false)", "set_config"),
    ("SELECT pg_catalog.set_config('search_path', '', false)", "set_config"),
    ("PREPARE p AS SELECT 1", "prepared_statement"),
    ("EXECUTE p (1)", "prepared_statement"),
    ("DEALLOCATE ALL", "prepared_statement"),
    ("DISCARD ALL", "discard"),
    ("CREATE TEMP TABLE t (a int)", "temporary_table"),
    ("CREATE LOCAL TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1", "temporary_table"),
    ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "temporary_table"),
    ("CREATE TEMP SEQUENCE s", "temporary_table"),
    ("CREATE TABLE pg_temp.t (a int)", "temporary_table"),
    ("SELECT a INTO TEMP t FROM u", "temporary_table"),
    ('SELECT a INTO TEMPORARY TABLE "T" FROM u', "temporary_table"),
    ('SELECT a INTO TEMP "T" FROM u', "temporary_table"),
    ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1", "cursor"),
    ("LISTEN jobs", "listen"),
    ("LOAD 'auto_explain'", "load"),
    ("SELECT nextval('s')", "sequence_function"),
    ("INSERT INTO t VALUES (nextval('s'::regclass))", "sequence_function"),
    ("SELECT pg_catalog.setval('s', 1)", "sequence_function"),
    ("CREATE TABLE t AS SELECT nextval ('s')", "sequence_function"),
    ("SELECT pg_advisory_lock(1)", "advisory_lock"),
    ("SELECT pg_try_advisory_lock_shared(1)", "advisory_lock"),
    ("SELECT pg_advisory_unlock_all()", "advisory_lock"),
    ("INSERT INTO t SELECT pg_advisory_lock(1)", "advisory_lock"),
    ("/* a /* nested */ ' */ SET x = 1", "session_set"),
    ("SELECT E'\\''; SET x = 'a'", "session_set"),
    ("SELECT '\\'; SET x = 'a'", "session_set"),
    ("SELECT $a$ $b$ $a$; SET x = 1", "session_set"),
    ("SELECT 1 -- '\n; SET x = 1", "session_set"),
]
POSTGRESQL_HARMLESS = [
    "SELECT 1",
    "",
    ";",
    "SET LOCAL search_path = a",
    "set  local x = 1",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL DEFERRED",
    "UPDATE t SET x = 1",
    "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET x = 1",
    "ALTER TABLE t ALTER x SET NOT NULL",
    "ALTER ROLE app SET search_path = a",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET x = 1 AS 'SELECT 1'",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT nextval('s'); END",
    "CREATE TABLE t (id int DEFAULT nextval('s'::regclass))",
    "PREPARE TRANSACTION 'x'",
    "GRANT EXECUTE ON FUNCTION f TO app",
    "CREATE TRIGGER a AFTER INSERT ON t EXECUTE FUNCTION f()",
    "CREATE TABLE temp (a int)",
    "INSERT INTO temp VALUES (1)",
    "INSERT INTO temp (a) VALUES (1)",
    "MERGE INTO temp USING u ON temp.a = u.a WHEN MATCHED THEN DO NOTHING",
    "SELECT a INTO temp FROM t",
    "SELECT temp FROM t",
    "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1)",
    "SELECT currval('s'), lastval()",
    "SELECT my.nextval('s'), nextval FROM t",
    "SELECT setting, reset_val FROM pg_settings",
    "SELECT current_setting('a')",
    "NOTIFY jobs",
    "LOCK TABLE t IN SHARE MODE",
    "SELECT 'SET x = 1; LISTEN a'",
    "SELECT 'it''s; SET x = 1'",
    "SELECT E'\\'; SET x = 1'",
    "SELECT like'\\' , '; SET x = 1'",
    "SELECT $$; SET x = 1$$, $a$ $A$; SET x = 1 $a$",
    "SELECT foo$a$ FROM t WHERE b = $1",
    'SELECT "; SET x = 1", "nextval" FROM "set"',
    "SELECT 1 -- ; SET x = 1",
    "SELECT 1 /* ; SET /* x */ = 1 */",
    "DO $$ BEGIN PERFORM nextval('s'); END $$",
    "SELECT 1 WHERE a = %(set)s AND b = %(nextval)s",
    "SELECT @x, LOCK, GET_LOCK('a', 1)",
]
MYSQL = [
    ("SET sort_buffer_size = 1", "session_set"),
    ("SET SESSION foreign_key_checks = 0", "session_set"),
    ("SET NAMES utf8mb4, sort_buffer_size = 1", "session_set"),
    ("SET @@session.max_join_size = 1", "session_set"),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "session_set"),
    ("SET @@transaction_isolation = 'SERIALIZABLE'", "session_set"),
    ("SET ROLE app", "session_set"),
    ("SET @x := 1", "user_variable"),
    ("SET NAMES utf8mb4, @x = 1", "user_variable"),
    ("SELECT @x", "user_variable"),
    ("SELECT @`x y`", "user_variable"),
    ("SELECT a INTO @x FROM t", "user_variable"),
    ("PREPARE p FROM 'SELECT 1'", "prepared_statement"),
    ("EXECUTE p", "prepared_statement"),
    ("DEALLOCATE PREPARE p", "prepared_statement"),
    ("DROP PREPARE p", "prepared_statement"),
    ("CREATE TEMPORARY TABLE t (a int)", "temporary_table"),
    ("LOCK TABLES t READ", "table_lock"),
    ("LOCK TABLE t WRITE", "table_lock"),
    ("FLUSH TABLES WITH READ LOCK", "table_lock"),
    ("SELECT GET_LOCK('a', 1)", "named_lock"),
    ("SELECT FOUND_ROWS()", "row_count"),
    ("SELECT ROW_COUNT()", "row_count"),
    ("SELECT /*! STRAIGHT_JOIN */ a FROM t", "executable_comment"),
    ("SELECT 1 # '\n; LOCK TABLES t READ", "table_lock"),
    ("SELECT 1--1; LOCK TABLES t READ", "table_lock"),
    ("SELECT /* plain */ '\\''; LOCK TABLES t READ", "table_lock"),
]
MYSQL_HARMLESS = [
    "SELECT 1",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET CHARACTER SET utf8mb4",
    "SET autocommit = 0, SESSION time_zone = '+00:00', @@session.wait_timeout = 10",
    "SET sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), NAMES utf8mb4",
    "SET @@sql_mode = (SELECT IF(1, 'a', 'b'))",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
    "SET transaction_isolation = 'SERIALIZABLE'",
    "SET LOCAL sort_buffer_size = 1",
    "SET GLOBAL max_connections = 1",
    "SET PASSWORD = 'x'",
    "SELECT @@version, @@session.sql_mode, @@global.max_connections",
    "SELECT 'a@b', \"@x\", `@x` FROM t WHERE b = 'it\\'s @x'",
    "CREATE USER app@'%', `a`@localhost, 'b'@\"%\"",
    "UPDATE t SET x = 1",
    "SELECT a FROM t FOR UPDATE",
    "SELECT a FROM t LOCK IN SHARE MODE",
    "SELECT my.get_lock('a'), RELEASE_LOCK('a'), LAST_INSERT_ID()",
    "LOAD DATA INFILE 'x' INTO TABLE t",
    "DROP TEMPORARY TABLE t",
    "CREATE PROCEDURE p() BEGIN SET @x = 1; LOCK TABLES t READ; END",
    "CREATE DEFINER=`a`@`b` TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1",
    "SELECT 1 # ; LOCK TABLES t READ",
    "SELECT 1 -- ; LOCK TABLES t READ",
    "SELECT 1 /* ; LOCK TABLES t READ */",
    "SELECT /*+ SET_VAR(sort_buffer_size = 16M) */ 1",
    "SELECT nextval, temp FROM t",
]
DIALECTS = ("postgresql", "mysql", "mariadb")
PINNING = [("postgresql", *row) for row in POSTGRESQL] + [
    (dialect, *row) for dialect in ("mysql", "mariadb") for row in MYSQL
]


def names(sql: str, dialect: str) -> list[str]:
    return [cause.name for cause in causes(sql, dialect)]


@pytest.mark.parametrize(("dialect", "sql", "name"), PINNING)
def test_a_statement_that_pins_has_its_cause(dialect: str, sql: str, name: str) -> None:
    assert names(sql, dialect) == [name]


@pytest.mark.parametrize("sql", POSTGRESQL_HARMLESS)
def test_a_postgresql_statement_that_pins_nothing(sql: str) -> None:
    assert causes(sql, "postgresql") == ()


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
@pytest.mark.parametrize("sql", MYSQL_HARMLESS)
def test_a_mysql_statement_that_pins_nothing(sql: str, dialect: str) -> None:
    assert causes(sql, dialect) == ()


def test_several_causes_are_told_once_each() -> None:
    sql = "LISTEN a; SET x = 1; CREATE TEMP TABLE t (a int); SELECT 1 INTO TEMP u; RESET x"
    assert names(sql, "postgresql") == ["session_set", "temporary_table", "listen"]


def test_what_an_executable_comment_holds_counts_too() -> None:
    sql = "/*!50003 */ SET sort_buffer_size = 1; CREATE /*!TEMPORARY*/ TABLE t (a int)"
    expected = ["executable_comment", "session_set", "temporary_table"]
    assert names(sql, "mysql") == names(sql, "mariadb") == expected


def test_mariadbs_own_executable_comment_is_a_plain_one_to_mysql() -> None:
    assert names("/*M!100100 SET x = 1 */", "mariadb") == ["executable_comment", "session_set"]
    assert names("/*M!100100 SET x = 1 */", "mysql") == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_size_counts_in_bytes_and_16_kb_are_not_too_long(dialect: str) -> None:
    at_most = "SELECT '" + "é" * 8187 + "x'"
    assert len(at_most.encode()) == 16 * 1024
    assert names(at_most, dialect) == []
    assert names(at_most + " ", dialect) == ["statement_over_16_kb"]


def test_a_dialect_without_a_proxy_is_refused() -> None:
    with pytest.raises(ConfigError, match="not for 'sqlite'"):
        causes("SELECT 1", "sqlite")


def test_a_warning_survives_pickling() -> None:
    (cause,) = causes("LISTEN a", "postgresql")
    copy = pickle.loads(pickle.dumps(PinningWarning(cause, "app.py:1")))
    assert (copy.cause, copy.place) == (cause, "app.py:1")
    assert "app.py:1" in str(copy)


FILLERS = {
    "postgresql": [" ", "\n\t", "/* SET ' */", "/* a /* LISTEN */ b */", "--LOAD\n", "-- '\r\n"],
    "mysql": [" ", "\n\t", "/* LOCK ' */", "# LOCK TABLES\n", "-- @x\n", "/*+ @x */"],
}
FILLERS["mariadb"] = FILLERS["mysql"]
WORDS_AND_SPACES = re.compile(r"'(?:\\'|[^'])*'|[A-Za-z_]+| ")
PLAIN = [row for row in PINNING if not re.search(r"[\"$`#*\\\n]|--", row[1])]


@given(st.sampled_from(PLAIN), st.data())
def test_comments_white_space_and_case_change_nothing(
    row: tuple[str, str, str], data: st.DataObject
) -> None:
    dialect, sql, name = row
    filler = st.lists(st.sampled_from(FILLERS[dialect]), min_size=1, max_size=3).map("".join)

    def vary(match: re.Match[str]) -> str:
        token = match[0]
        if token == " ":
            return " " + data.draw(filler) + " "
        return (
            token if token[0] == "'" else data.draw(st.sampled_from([token.upper(), token.lower()]))
        )

    varied = data.draw(filler) + WORDS_AND_SPACES.sub(vary, sql) + data.draw(filler)
    assert names(varied, dialect) == [name]


ANY = st.one_of(st.text(), st.sampled_from([f"{sql}; {sql}" for _, sql, _ in PINNING]))


@given(ANY)
def test_nothing_in_a_literal_or_a_comment_pins(text: str) -> None:
    doubled = text.replace("'", "''")
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    line = re.sub(r"[\r\n]", " ", text)
    block = re.sub(r"/\*|\*/|^M?!|[/*]$", " ", text)
    assert causes(f"SELECT '{doubled}', E'{escaped}' FROM t", "postgresql") == ()
    assert causes(f"SELECT $q${text.replace('$', '')}$q$ FROM t", "postgresql") == ()
    assert causes(f'SELECT "{text.replace(chr(34), chr(34) * 2)}" FROM t', "postgresql") == ()
    for dialect in DIALECTS:
        assert causes(f"SELECT 1 /* {block} */ FROM t -- {line}", dialect) == ()
    for dialect in ("mysql", "mariadb"):
        assert causes(f"SELECT '{escaped}' FROM t # {line}", dialect) == ()


@given(st.sampled_from(PLAIN), ANY)
def test_a_literal_or_comment_beside_a_pinning_statement_adds_nothing(
    row: tuple[str, str, str], text: str
) -> None:
    dialect, sql, name = row
    escaped = text.replace("\\", "").replace("'", "''")
    block = re.sub(r"/\*|\*/|[/*]$", " ", text)
    assert names(f"SELECT '{escaped}' /* {block} */; {sql}", dialect) == [name]


@given(st.text(alphabet="'\"`$/*!-#@;\\ \nexSETa1("), st.sampled_from(DIALECTS))
def test_any_text_has_an_answer(text: str, dialect: str) -> None:
    assert isinstance(causes(text, dialect), tuple)
