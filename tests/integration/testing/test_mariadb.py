import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy

from datakit.errors import ConfigError
from datakit.testing import MariadbServer

STARTS = """
from datakit.testing import MariadbCluster, MariadbServer
print(flush=True)
{}().start()
import time; time.sleep(60)
"""
DENIED = 1045
READ_ONLY = 1290
NOT_ALLOWED = (1044, 1142, 1227)


@pytest.fixture(scope="module")
def shared() -> Iterator[MariadbServer]:
    """A server that tests leave alive and writable."""
    with MariadbServer() as server:
        yield server


def connect(
    server: MariadbServer, **options: Any
) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        **{
            "host": server.address,
            "port": server.port,
            "user": server.user,
            "password": server.password or "",
            "database": server.database,
            "autocommit": True,
            "connect_timeout": 10,
            **options,
        }
    )


def rows(server: MariadbServer, statement: str, **options: Any) -> list[tuple[object, ...]]:
    """Return what the statement gives on a new connection of the server's user."""
    with closing(connect(server, **options)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def test_url_is_sqlalchemys(shared: MariadbServer) -> None:
    """The URL names the driver and opens an engine as it is."""
    assert shared.url() == f"mysql+pymysql://app@127.0.0.1:{shared.port}/app"
    assert shared.url("aiomysql").startswith("mysql+aiomysql://app@")
    assert shared.url("").startswith("mysql://app@")
    engine = sqlalchemy.create_engine(shared.url())
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("select database()")) == "app"
    engine.dispose()


def test_user_has_all_rights_on_its_database_and_no_more(shared: MariadbServer) -> None:
    """The user makes and drops tables, and is no administrator; query() is."""
    rows(shared, "create table mine (i int)")
    assert shared.query("show tables") == [("mine",)]
    rows(shared, "drop table mine")
    for statement in ("set global read_only = 1", "create database b", "select * from mysql.user"):
        with pytest.raises(pymysql.MySQLError) as refused:
            rows(shared, statement)
        assert refused.value.args[0] in NOT_ALLOWED
    assert shared.query("select user, host from mysql.user where user = 'app'") == [("app", "%")]


def test_underscore_in_the_name_of_the_database_is_no_wildcard() -> None:
    """Rights on one_database are no rights on oneXdatabase."""
    with MariadbServer(database="a_b", user="writer") as server:
        assert rows(server, "select database(), current_user()") == [("a_b", "writer@%")]
        server.query("create database axb")
        with pytest.raises(pymysql.MySQLError) as refused:
            rows(server, "select 1", database="axb")
        assert refused.value.args[0] in NOT_ALLOWED


def test_user_may_come_from_any_host() -> None:
    """A connection from another address of this machine is the same user's."""
    with MariadbServer(address="127.0.0.3") as server:
        peer = rows(server, "select user(), current_user()", bind_address="127.0.0.44")
        assert peer == [("app@127.0.0.44", "app@%")]


def test_killed_server_comes_back_with_its_data() -> None:
    """A kill cuts connections; a restart keeps the port and what was committed, of InnoDB."""
    with MariadbServer() as server, closing(connect(server)) as connection:
        rows(server, "create table t (i int) engine = innodb")
        rows(server, "insert into t values (1)")
        url, pid = server.url(), server.pid
        server.kill()
        assert not server.alive
        with pytest.raises(pymysql.OperationalError):
            connection.ping(reconnect=False)
        with pytest.raises(pymysql.OperationalError, match="refused"):
            connect(server)
        server.restart()
        assert (server.url(), server.alive, server.pid != pid) == (url, True, True)
        assert rows(server, "select i from t") == [(1,)]
        server.restart()
        assert rows(server, "select i from t") == [(1,)]


def test_stopped_server_is_silent_until_resumed() -> None:
    """SIGSTOP leaves connections open and unanswered, and nothing is lost."""
    with MariadbServer() as server, closing(connect(server, read_timeout=0.3)) as connection:
        server.stop_process()
        assert server.alive
        with pytest.raises(pymysql.OperationalError, match="timed out"):
            connection.query("select 1")
        server.resume_process()
        assert rows(server, "select 1") == [(1,)]
        server.stop_process()
        server.kill()
        assert not server.alive


@pytest.mark.parametrize("password", ["secret", "a 'b\"%s/\\@:"])
def test_password_is_asked_for(password: str) -> None:
    """The user needs it, the URL holds it, and no repr does."""
    with MariadbServer(password=password) as server:
        assert rows(server, "select current_user()") == [("app@%",)]
        engine = sqlalchemy.create_engine(server.url())
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("select 1")) == 1
        engine.dispose()
        for wrong in ("", "wrong"):
            with pytest.raises(pymysql.OperationalError) as denied:
                connect(server, password=wrong)
            assert denied.value.args[0] == DENIED
        assert password not in repr(server)


def verified(certificate: Path) -> dict[str, object]:
    return {"ssl_ca": str(certificate), "ssl_verify_cert": True, "ssl_verify_identity": True}


def test_tls_is_verified_against_the_certificate() -> None:
    """A new certificate is for the address, outlives a restart, and no other will do."""
    cipher = "show session status like 'Ssl_version'"
    with MariadbServer(tls=True) as server, MariadbServer(tls=True) as other:
        options = verified(server.certificate)
        assert rows(server, cipher, **options) == [("Ssl_version", "TLSv1.3")]
        with pytest.raises(pymysql.OperationalError, match="certificate verify failed"):
            connect(other, **options)
        server.restart()
        assert rows(server, cipher, **options) == [("Ssl_version", "TLSv1.3")]
        assert rows(server, cipher, ssl_disabled=True) == [("Ssl_version", "")]


def test_own_certificate_is_used_and_must_fit_the_host(tmp_path: Path) -> None:
    """tls= takes the paths of a pair; one for another address is refused by the client."""
    with MariadbServer(tls=True, address="127.0.0.2") as first:
        pair = tuple(
            shutil.copy(first.certificate.with_name(name), tmp_path)
            for name in ("certificate.pem", "key.pem")
        )
    certificate = Path(pair[0])
    with MariadbServer(tls=(pair[0], pair[1]), address="127.0.0.2") as server:
        assert server.certificate.read_bytes() == certificate.read_bytes()
        assert rows(server, "select 1", **verified(certificate)) == [(1,)]
    with (
        MariadbServer(tls=(pair[0], pair[1])) as server,
        pytest.raises(pymysql.OperationalError, match="IP address mismatch"),
    ):
        connect(server, **verified(certificate))


def test_read_only_binds_the_user_and_not_the_superuser() -> None:
    """A read-only server refuses the user's writes until the superuser makes it a writer."""
    with MariadbServer(read_only=True) as server:
        server.query("create table t (i int)")
        with pytest.raises(pymysql.OperationalError) as refused:
            rows(server, "insert into t values (1)")
        assert refused.value.args[0] == READ_ONLY
        server.query("set global read_only = 0")
        rows(server, "insert into t values (1)")
        assert server.query("select i from t") == [(1,)]
        server.restart()
        assert server.query("select @@read_only") == [(1,)]
        server.set_read_only(False)
        server.restart()
        assert server.query("select @@read_only") == [(0,)]


def test_servers_share_nothing() -> None:
    """Two servers made from one template have data of their own."""
    with MariadbServer() as one, MariadbServer() as two:
        one.query("create table t (i int)")
        assert (one.query("show tables"), two.query("show tables")) == ([("t",)], [])


def test_forked_child_makes_servers_of_its_own() -> None:
    """A child that outlives its parent does not need the parent's template."""
    code = """
import os, sys
from datakit.testing import MariadbServer
with MariadbServer():
    pass
parent = os.getpid()
if os.fork():
    sys.exit(0)
while os.getppid() == parent:
    pass
with MariadbServer() as server:
    print(server.query("select 42"), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[(42,)]\n", "")


@pytest.mark.parametrize("kind", ["MariadbServer", "MariadbCluster"])
def test_killed_at_any_moment_of_the_start(kind: str, temporary: Path) -> None:
    """An owner killed while it makes the first files or the replicas leaves nothing."""
    for wait in (0.1, 0.3, 0.8, 2.2, 2.6, 3.0):
        owner = subprocess.Popen(
            [sys.executable, "-c", STARTS.format(kind)],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        assert owner.stdout is not None
        owner.stdout.readline()
        until = time.monotonic() + 20
        while not descendants(owner.pid) and time.monotonic() < until:
            time.sleep(0.01)  # a busy machine takes its time to begin
        time.sleep(wait)
        children = descendants(owner.pid)
        assert children
        assert list(temporary.iterdir())
        owner.kill()
        owner.communicate()
        until = time.monotonic() + 20
        while left(children, temporary) and time.monotonic() < until:
            time.sleep(0.02)
        assert left(children, temporary) == []


def left(children: list[int], temporary: Path) -> list[int | Path]:
    return [*filter(is_running, children), *temporary.iterdir()]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory that the servers' account can write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except OSError:  # it ended meanwhile
            continue
    return found[1:]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_wrong_use_is_refused(shared: MariadbServer) -> None:
    """A taken port, a second start and what needs a running server are told apart."""
    with pytest.raises(RuntimeError, match="Address already in use"):
        MariadbServer(port=shared.port).start()
    with pytest.raises(ConfigError, match="close"):
        shared.start()
    with pytest.raises(ConfigError, match="tls=True"):
        _ = shared.certificate
    for use in (MariadbServer.kill, MariadbServer.restart, lambda server: server.query("select 1")):
        with pytest.raises(ConfigError, match="not running"):
            use(MariadbServer())
