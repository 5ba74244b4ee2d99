"""The proxies of the suite do what those of production do."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pymysql
import pytest
from tests.integration.proxies import HAProxy, PgBouncer

from datakit.testing import MariadbServer, PostgresCluster, PostgresNode

PATIENCE = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def backend(url: str) -> int:
    """Return the pid of the PostgreSQL process that serves a new connection."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def mariadbs() -> Iterator[list[MariadbServer]]:
    with MariadbServer() as one, MariadbServer() as two:
        yield [one, two]


def served_by(proxy: HAProxy) -> int:
    """Return the port of the MariaDB that serves a new connection through the proxy."""
    with closing(to_mariadb(proxy)) as connection, connection.cursor() as cursor:
        cursor.execute("select @@port")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def to_mariadb(proxy: HAProxy) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        host=proxy.address, port=proxy.port, user="app", database="app", connect_timeout=10
    )


def test_pgbouncer_shares_a_server_connection_in_transaction_mode(postgres: PostgresNode) -> None:
    """Two clients at once take turns on one backend, which PostgreSQL itself would never do."""
    with PgBouncer(postgres) as proxy:
        url = proxy.url("")
        assert f"@127.0.0.1:{proxy.port}/app" in url
        with psycopg.connect(url, autocommit=True) as held:
            row = held.execute("select pg_backend_pid()").fetchone()
            assert row == (backend(url),)


def test_pgbouncer_keeps_a_server_connection_in_session_mode(postgres: PostgresNode) -> None:
    """A client that stays has its backend for itself."""
    with PgBouncer(postgres, pool_mode="session") as proxy:
        url = proxy.url("")
        with psycopg.connect(url, autocommit=True) as held:
            row = held.execute("select pg_backend_pid()").fetchone()
            assert row != (backend(url),)


def test_killed_pgbouncer_cuts_its_clients_and_comes_back(postgres: PostgresNode) -> None:
    """The server lives on, the clients do not; a restart serves the same URL."""
    with PgBouncer(postgres) as proxy:
        url = proxy.url("")
        with psycopg.connect(url, autocommit=True) as connection:
            proxy.kill()
            assert (proxy.alive, postgres.alive) == (False, True)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(url)
        proxy.restart()
        assert proxy.url("") == url
        assert backend(url)


def test_pgbouncer_speaks_tls_to_both_sides() -> None:
    """A client verifies PgBouncer, PgBouncer verifies the server, and the password goes through."""
    with (
        PostgresCluster(standbys=0, tls=True, password='se"cret') as cluster,
        PgBouncer(cluster.primary, tls=True) as proxy,
    ):
        trusted = f"?sslmode=verify-full&sslrootcert={proxy.certificate}"
        with psycopg.connect(proxy.url("") + trusted) as connection:
            assert connection.pgconn.ssl_in_use
            inner = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
            assert connection.execute(inner.encode()).fetchall() == [(True,)]
        with pytest.raises(psycopg.OperationalError, match=r"password|SASL"):
            psycopg.connect(proxy.url(""), password="wrong")


def test_haproxy_goes_to_the_first_server_that_lives(mariadbs: list[MariadbServer]) -> None:
    """A killed server's connections are cut and new ones go to the next, until it is back."""
    first, second = mariadbs
    with HAProxy(mariadbs) as proxy, closing(to_mariadb(proxy)) as connection:
        assert (served_by(proxy), proxy.states()) == (first.port, ["UP", "UP"])
        first.kill()
        with pytest.raises(pymysql.OperationalError):
            connection.ping(reconnect=False)
        assert served_by(proxy) == second.port
        wait_for(lambda: proxy.states() == ["DOWN", "UP"])
        first.restart()
        wait_for(lambda: proxy.states() == ["UP", "UP"])
        assert served_by(proxy) == first.port


def test_haproxy_notices_a_stopped_server(mariadbs: list[MariadbServer]) -> None:
    """A process that accepts and says nothing fails the check, and its connections are cut."""
    first, second = mariadbs
    with HAProxy(mariadbs) as proxy, closing(to_mariadb(proxy)) as connection:
        first.stop_process()
        wait_for(lambda: proxy.states()[0] == "DOWN")
        with pytest.raises(pymysql.OperationalError):
            connection.ping(reconnect=False)
        assert served_by(proxy) == second.port
        first.resume_process()
        wait_for(lambda: proxy.states() == ["UP", "UP"])


def test_killed_haproxy_comes_back_on_its_port(mariadbs: list[MariadbServer]) -> None:
    """Without it the port refuses; with it again all is as before."""
    with HAProxy(mariadbs) as proxy:
        port = proxy.port
        proxy.kill()
        with pytest.raises(pymysql.OperationalError, match="refused"):
            to_mariadb(proxy)
        proxy.restart()
        assert (proxy.port, served_by(proxy)) == (port, mariadbs[0].port)


def test_haproxy_stands_before_postgresql_too(cluster: PostgresCluster) -> None:
    """Its check speaks PostgreSQL's protocol where the servers do."""
    primary, standby = cluster.nodes

    def address(proxy: HAProxy) -> str:
        url = f"postgresql://app@{proxy.address}:{proxy.port}/app"
        with psycopg.connect(url, connect_timeout=10) as connection:
            row = connection.execute("select host(inet_server_addr())").fetchone()
        assert row is not None
        return str(row[0])

    with HAProxy(cluster.nodes) as proxy:
        assert address(proxy) == primary.address
        primary.stop_process()
        wait_for(lambda: proxy.states() == ["DOWN", "UP"])
        assert address(proxy) == standby.address
        primary.resume_process()
        wait_for(lambda: proxy.states() == ["UP", "UP"])
        assert address(proxy) == primary.address
