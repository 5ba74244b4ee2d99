import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest
import sqlalchemy

from datakit.errors import ConfigError
from datakit.testing import MariadbCluster, MariadbNode

READ_ONLY = 1290
WRITERS = 4


@pytest.fixture
def cluster() -> Iterator[MariadbCluster]:
    """A fresh primary with a replica that acknowledges, to be harmed at will."""
    with MariadbCluster() as cluster:
        yield cluster


def connect(
    node: MariadbNode, **options: Any
) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        **{
            "host": node.address,
            "port": node.port,
            "user": node.user,
            "password": node.password or "",
            "database": node.database,
            "autocommit": True,
            "connect_timeout": 10,
            "read_timeout": 10,
            "ssl_disabled": not options,
            **options,
        }
    )


def rows(node: MariadbNode, statement: str, **options: Any) -> list[tuple[object, ...]]:
    """Return what the statement gives on a new connection of the cluster's user."""
    with closing(connect(node, **options)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def refusal(node: MariadbNode, statement: str) -> object:
    """Return the number of the error that the statement ends with."""
    with pytest.raises(pymysql.MySQLError) as refused:
        rows(node, statement)
    return refused.value.args[0]


def status(node: MariadbNode, name: str) -> object:
    [(_, value)] = node.query(f"show status like 'Rpl_semi_sync_{name}'")
    return value


def wait_for(condition: object) -> None:
    assert callable(condition)
    give_up = threading.Event()
    timer = threading.Timer(20, give_up.set)
    timer.start()
    while not condition():
        assert not give_up.wait(0.01)
    timer.cancel()


class Writers:
    """Threads that insert numbers and note each whose commit was acknowledged."""

    def __init__(self, node: MariadbNode) -> None:
        self.acknowledged: list[int] = []
        self._node = node
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, first: int) -> None:
        try:
            with closing(connect(self._node)) as connection, connection.cursor() as cursor:
                for number in range(first, 1_000_000, WRITERS):
                    cursor.execute(f"insert into t values ({number})")
                    self.acknowledged.append(number)
        except pymysql.MySQLError:
            pass  # what they wait for

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def test_no_acknowledged_commit_is_lost_when_the_primary_is_killed(
    cluster: MariadbCluster,
) -> None:
    """Kill under load, promote, rejoin, and the same again the other way round."""
    rows(cluster.primary, "create table t (i int primary key)")
    for _ in range(2):
        old, [replica] = cluster.primary, cluster.replicas
        rows(old, "delete from t")
        writers = Writers(old)
        wait_for(lambda writers=writers: len(writers.acknowledged) > 200)
        old.kill()
        writers.join()
        assert (old.alive, cluster.primary) == (False, old)
        assert cluster.promote() is replica
        assert (cluster.primary, cluster.replicas) == (replica, ())
        kept = {number for (number,) in rows(replica, "select i from t")}
        assert set(writers.acknowledged) - kept == set()
        rows(replica, "insert into t values (-1)")  # no commit waits for the lost replica
        cluster.rejoin(old)
        assert cluster.replicas == (old,)
        assert {number for (number,) in rows(old, "select i from t")} == kept | {-1}
        assert refusal(old, "insert into t values (-2)") == READ_ONLY


def test_what_nobody_acknowledged_is_dropped_at_rejoin(cluster: MariadbCluster) -> None:
    """A killed primary holds the transaction that waited, until it is made anew."""
    old, [replica] = cluster.primary, cluster.replicas
    rows(old, "create table t (i int primary key)")
    wait_for(lambda: replica.query("show tables") == [("t",)])
    replica.stop_process()
    writers = Writers(old)
    wait_for(lambda: status(old, "master_wait_sessions") != "0")
    old.kill()
    writers.join()
    replica.kill()  # what is on its way to it is lost too
    replica.restart()
    cluster.promote()
    assert (writers.acknowledged, rows(replica, "select i from t")) == ([], [])
    old.restart()
    assert rows(old, "select i from t") != []
    cluster.rejoin(old)
    assert rows(old, "select i from t") == []


def test_commit_waits_until_the_replica_has_it(cluster: MariadbCluster) -> None:
    """A commit hangs while the replica is stopped and ends when it goes on."""
    primary, [replica] = cluster.primary, cluster.replicas
    rows(primary, "create table t (i int)")
    replica.stop_process()
    waiting = threading.Thread(target=rows, args=(primary, "insert into t values (1)"))
    waiting.start()
    wait_for(lambda: status(primary, "master_wait_sessions") == "1")
    assert waiting.is_alive()
    assert rows(primary, "select i from t") == []  # AFTER_SYNC: nobody sees it yet
    replica.resume_process()
    waiting.join(20)
    assert not waiting.is_alive()
    assert rows(primary, "select i from t") == [(1,)]


def test_asynchronous_commit_waits_for_nobody() -> None:
    """With synchronous=False a commit ends while the replica is stopped."""
    with MariadbCluster(synchronous=False) as cluster:
        [replica] = cluster.replicas
        rows(cluster.primary, "create table t (i int)")
        replica.stop_process()
        rows(cluster.primary, "insert into t values (1)")
        replica.resume_process()
        wait_for(lambda: replica.query("show tables") == [("t",)])
        wait_for(lambda: rows(replica, "select i from t") == [(1,)])


def test_stopped_primary_is_replaced_while_it_is_silent(cluster: MariadbCluster) -> None:
    """A stopped process answers nobody; its replica is promoted, and it is rejoined from there."""
    old = cluster.primary
    with closing(connect(old, read_timeout=0.3)) as connection:
        old.stop_process()
        with pytest.raises(pymysql.OperationalError, match="timed out"):
            connection.query("select 1")
    assert old.alive
    new = cluster.promote()
    rows(new, "create table t (i int)")
    cluster.rejoin(old)
    assert rows(old, "show tables") == [("t",)]


def test_restarted_nodes_keep_their_parts(cluster: MariadbCluster) -> None:
    """After restarts the primary still waits for a replica, which is read only and follows."""
    primary, [replica] = cluster.primary, cluster.replicas
    rows(primary, "create table t (i int)")
    url, pid = cluster.url(), primary.pid
    primary.restart()
    replica.restart()
    assert (cluster.url(), primary.pid != pid) == (url, True)
    rows(primary, "insert into t values (1)")
    wait_for(lambda: rows(replica, "select i from t") == [(1,)])
    assert refusal(replica, "insert into t values (2)") == READ_ONLY
    assert status(primary, "master_yes_tx") == "1"
    primary.kill()
    cluster.promote()
    replica.restart()
    rows(replica, "insert into t values (2)")
    assert rows(replica, "select i from t order by i") == [(1,), (2,)]


def test_demoted_primary_refuses_writes_and_goes_on(cluster: MariadbCluster) -> None:
    """The old primary stays up: connections live, and writes and commits fail with 1290."""
    old = cluster.primary
    rows(old, "create table t (i int)")
    with (
        closing(connect(old)) as idle,
        closing(connect(old, autocommit=False)) as busy,
        idle.cursor() as cursor,
    ):
        busy.query("insert into t values (1)")
        old.set_read_only()
        with pytest.raises(pymysql.OperationalError) as refused:
            busy.commit()
        assert refused.value.args[0] == READ_ONLY
        with pytest.raises(pymysql.OperationalError) as refused:
            cursor.execute("insert into t values (2)")
        assert refused.value.args[0] == READ_ONLY
        new = cluster.promote()
        rows(new, "insert into t values (3)")
        cursor.execute("select count(*) from t")
        assert cursor.fetchall() == ((0,),)
    old.restart()
    assert refusal(old, "insert into t values (4)") == READ_ONLY
    old.set_read_only(False)
    with (
        closing(connect(old, read_timeout=0.5)) as alone,
        pytest.raises(pymysql.OperationalError, match="timed out"),
    ):
        alone.query("insert into t values (5)")  # no replica is left to acknowledge it
    assert rows(new, "select i from t") == [(3,)]


def test_no_commit_is_acknowledged_once_the_primary_is_read_only(cluster: MariadbCluster) -> None:
    """Demote under load and promote: the new primary has all that was acknowledged."""
    old = cluster.primary
    rows(old, "create table t (i int primary key)")
    writers = Writers(old)
    wait_for(lambda: len(writers.acknowledged) > 200)
    old.set_read_only()
    kept = {number for (number,) in rows(cluster.promote(), "select i from t")}
    writers.join()
    assert old.alive
    assert set(writers.acknowledged) - kept == set()


def test_read_only_does_not_wait_for_commits_that_hang(cluster: MariadbCluster) -> None:
    """A primary whose replica is lost is demoted although commits wait for that replica."""
    old, [replica] = cluster.primary, cluster.replicas
    rows(old, "create table t (i int primary key)")
    replica.kill()
    writers = Writers(old)
    wait_for(lambda: status(old, "master_wait_sessions") != "0")
    old.set_read_only()
    writers.join()
    assert writers.acknowledged == []
    assert refusal(old, "insert into t values (-1)") == READ_ONLY


def test_other_replicas_follow_the_promoted_one() -> None:
    """With two replicas the second replicates the new primary without being made anew."""
    with MariadbCluster(replicas=2) as cluster:
        assert [node.port for node in cluster.nodes] == [cluster.port] * 3
        assert len({node.address for node in cluster.nodes}) == 3
        rows(cluster.primary, "create table t (i int)")
        old, chosen, other = cluster.nodes
        old.kill()
        cluster.promote(chosen)
        rows(chosen, "insert into t values (1)")
        wait_for(lambda: rows(other, "select i from t") == [(1,)])
        cluster.rejoin(old)
        assert status(chosen, "master_clients") == "2"


def test_replica_that_received_most_is_promoted() -> None:
    """Of two replicas the one that missed the last rows is not chosen."""
    with MariadbCluster(replicas=2) as cluster:
        old, behind, ahead = cluster.nodes
        rows(old, "create table t (i int)")
        wait_for(lambda: rows(behind, "show tables") == [("t",)])  # a commit waits for one of two
        behind.query("stop slave io_thread")
        rows(old, "insert into t values (1)")
        old.kill()
        assert cluster.promote() is ahead
        wait_for(lambda: rows(behind, "select i from t") == [(1,)])


def test_clusters_share_nothing() -> None:
    """Several clusters at once, on the same addresses, have ports and data of their own."""
    with MariadbCluster() as one, MariadbCluster() as two:
        assert one.port != two.port
        rows(one.primary, "create table t (i int)")
        assert rows(two.primary, "show tables") == []
        one.primary.kill()
        one.promote()
        assert two.primary.alive
        assert rows(one.primary, "show tables") == [("t",)]


def test_password_and_tls_hold_on_every_node() -> None:
    """The user needs the password everywhere, the certificate names every address."""
    password = "a 'b\"%s/\\@:"
    with MariadbCluster(password=password, tls=True) as cluster:
        cluster.rejoin(cluster.replicas[0])
        for node in cluster.nodes:
            assert rows(
                node,
                "show session status like 'Ssl_version'",
                ssl_ca=str(cluster.certificate),
                ssl_verify_cert=True,
                ssl_verify_identity=True,
            ) == [("Ssl_version", "TLSv1.3")]
            with pytest.raises(pymysql.OperationalError, match="Access denied"):
                connect(node, password="wrong")
        assert password not in repr(cluster) + repr(cluster.primary)


def test_url_is_sqlalchemys(cluster: MariadbCluster) -> None:
    """The URL is the primary's and opens an engine as it is."""
    assert cluster.url() == f"mysql+pymysql://app@{cluster.primary.address}:{cluster.port}/app"
    assert cluster.url("aiomysql").startswith("mysql+aiomysql://app@")
    engine = sqlalchemy.create_engine(cluster.url())
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("select database()")) == "app"
    engine.dispose()


def test_what_cannot_be_done_is_refused(cluster: MariadbCluster) -> None:
    """Promoting the primary, rejoining it, or rejoining without one is an error that says so."""
    primary, replica = cluster.nodes
    with pytest.raises(ConfigError, match="not a living replica"):
        cluster.promote(primary)
    with pytest.raises(ConfigError, match="not another node"):
        cluster.rejoin(primary)
    with pytest.raises(ConfigError, match="close"):
        cluster.start()
    with pytest.raises(ConfigError, match="tls=True"):
        _ = cluster.certificate
    with pytest.raises(RuntimeError, match="Address already in use"):
        MariadbCluster(port=cluster.port).start()
    primary.kill()
    with pytest.raises(ConfigError, match="is dead"):
        cluster.rejoin(replica)
    replica.kill()
    with pytest.raises(ConfigError, match="any node"):
        cluster.promote()
    with pytest.raises(ConfigError, match="not running"):
        _ = MariadbCluster().primary


def test_lost_race_for_a_port_is_run_again(
    cluster: MariadbCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that was free when chosen and is taken at the start is replaced by another."""
    from datakit.testing import _ports

    real, chosen = _ports.free_port, [cluster.port]

    def free_port(addresses: list[str], *, udp: bool = False) -> int:
        return chosen.pop() if chosen else real(addresses, udp=udp)

    monkeypatch.setattr(_ports, "free_port", free_port)
    with MariadbCluster(addresses=["127.0.0.9", cluster.primary.address]) as other:
        assert (other.port != cluster.port, chosen) == (True, [])
