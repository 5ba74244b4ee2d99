import contextlib
import socket
import time
from collections.abc import Iterator
from threading import Thread, active_count

import psycopg
import pytest

from datakit.errors import ConfigError
from datakit.testing import FaultProxy, PostgresNode, RedisServer

PING, PONG = b"PING\r\n", b"+PONG\r\n"
PATIENCE = 10.0


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        assert ask(client) == PONG
        yield client


def connect(proxy: FaultProxy, timeout: float = PATIENCE) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout)


def ask(client: socket.socket, request: bytes = PING) -> bytes:
    client.sendall(request)
    return client.recv(1024)


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.1)
    try:
        return not client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE)


def test_healthy_proxy_is_transparent(proxy: FaultProxy, client: socket.socket) -> None:
    """Bytes pass both ways and are counted."""
    assert ask(client, b"ECHO hello\r\n") == b"$5\r\nhello\r\n"
    assert (proxy.connections, proxy.open_connections) == (1, 1)
    assert (proxy.bytes_to_server, proxy.bytes_to_client) == (6 + 12, 7 + 11)


def test_end_of_stream_passes_both_ways(proxy: FaultProxy, client: socket.socket) -> None:
    """A client that says it is done gets its replies, then the server's end."""
    client.sendall(b"PING\r\nQUIT\r\n")
    client.shutdown(socket.SHUT_WR)
    received = b""
    while part := client.recv(1024):
        received += part
    assert received.startswith(PONG)
    wait_for_no_link(proxy)


def test_delay_holds_back_the_reply(proxy: FaultProxy, client: socket.socket) -> None:
    """The reply of a delayed link comes late, and in time after the heal."""
    proxy.delay(0.3)
    client.sendall(PING)
    assert is_silent(client)
    assert proxy.bytes_held == len(PONG)
    assert client.recv(10) == PONG
    assert proxy.bytes_held == 0
    proxy.heal()
    assert ask(client) == PONG


def test_black_hole_keeps_connections_and_delivers_when_healed(
    proxy: FaultProxy, client: socket.socket
) -> None:
    """Old and new connections stay open without an answer; what was held arrives in the end."""
    proxy.black_hole()
    with connect(proxy) as late:
        for c in (client, late):
            c.sendall(PING)
            assert is_silent(c)
        proxy.heal()
        assert client.recv(10) == late.recv(10) == PONG


def test_reset_ends_old_and_new_connections(proxy: FaultProxy, client: socket.socket) -> None:
    """A reset is an RST, not an end of stream, until the heal."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError), connect(proxy) as refused:
        refused.recv(1)
    proxy.heal()
    with connect(proxy) as healed:
        assert ask(healed) == PONG


def test_reset_frees_links_stuck_in_a_black_hole(proxy: FaultProxy, client: socket.socket) -> None:
    """A connection that holds undelivered bytes is cut like any other."""
    proxy.black_hole()
    client.sendall(PING)
    assert is_silent(client)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    wait_for_no_link(proxy)


def test_half_close_ends_replies_but_not_requests(
    proxy: FaultProxy, client: socket.socket, redis_server: RedisServer
) -> None:
    """The client reads the end of the stream while its writes still reach the server."""
    proxy.half_close()
    assert client.recv(1) == b""
    client.sendall(b"SET half-closed 1\r\n")
    assert value_of(redis_server, b"half-closed") == b"1"
    with connect(proxy) as late:
        assert late.recv(1) == b""
    proxy.heal()
    with connect(proxy) as healed:
        assert ask(healed) == PONG


def test_truncate_closes_within_a_reply(proxy: FaultProxy, client: socket.socket) -> None:
    """Only the bytes allowed arrive, then the end."""
    proxy.truncate(10)
    assert ask(client) == PONG
    assert ask(client) == PONG[:3]
    assert client.recv(1) == b""
    proxy.heal()
    with connect(proxy) as healed:
        assert ask(healed) == PONG


def test_dropped_reply_of_an_executed_request(
    proxy: FaultProxy, client: socket.socket, redis_server: RedisServer
) -> None:
    """Requests before the marked one are answered; that one is executed and its reply is lost."""
    proxy.drop_reply(b"INCR dropped")
    assert ask(client) == PONG
    with pytest.raises(ConnectionResetError):
        ask(client, b"INCR dropped\r\n")
    assert value_of(redis_server, b"dropped") == b"1"


def test_mark_is_found_across_pieces(proxy: FaultProxy, client: socket.socket) -> None:
    """The bytes that arm the drop may come in parts."""
    proxy.drop_reply(b"INCR pieces")
    client.sendall(b"PING\r\nINCR pi")
    assert client.recv(10) == PONG
    with pytest.raises(ConnectionResetError):
        ask(client, b"eces\r\n")


def test_drop_happens_as_often_as_asked(proxy: FaultProxy, client: socket.socket) -> None:
    """With times=1 the repeated request is answered."""
    proxy.drop_reply(times=1)
    with pytest.raises(ConnectionResetError):
        ask(client)
    with connect(proxy) as again:
        assert ask(again) == PONG


def test_commit_is_durable_when_its_reply_is_dropped(postgres: PostgresNode) -> None:
    """The client sees a lost connection, and the row is there at once."""
    with psycopg.connect(postgres.url("")) as direct:
        direct.execute("create table dropped (i int)")
        direct.commit()
        with FaultProxy(postgres.address, postgres.port) as proxy:
            link = psycopg.connect(
                host=proxy.host, port=proxy.port, user="app", dbname="app", sslmode="disable"
            )
            proxy.drop_reply(b"COMMIT")
            link.execute("insert into dropped values (1)")
            with pytest.raises(psycopg.OperationalError):
                link.commit()
            link.close()
            assert direct.execute("select i from dropped").fetchall() == [(1,)]


def test_retarget_moves_new_connections(proxy: FaultProxy, client: socket.socket) -> None:
    """An open connection stays with its server while a new one goes to the other."""
    with RedisServer() as other:
        proxy.retarget(other.address, other.port)
        with connect(proxy) as moved:
            ask(moved, b"SET only-there 1\r\n")
            assert ask(moved, b"EXISTS only-there\r\n") == b":1\r\n"
            assert ask(client, b"EXISTS only-there\r\n") == b":0\r\n"


def test_dead_target_resets_the_client() -> None:
    """Nobody listens behind the proxy: the client is told by RST."""
    with RedisServer() as gone:
        proxy = FaultProxy(gone.address, gone.port)
    with proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)


def test_no_thread_before_start_and_none_after_close(redis_server: RedisServer) -> None:
    """Making a proxy and setting its faults costs nothing; closing it leaves nothing."""
    threads = active_count()
    proxy = FaultProxy(redis_server.address, redis_server.port)
    proxy.reset()
    assert active_count() == threads
    with proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    assert active_count() == threads
    proxy.close()


def test_close_cuts_open_connections(redis_server: RedisServer) -> None:
    """A client of a closed proxy is not left waiting."""
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        client = connect(proxy)
        assert ask(client) == PONG
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


def test_many_clients_at_once(proxy: FaultProxy) -> None:
    """Concurrent connections do not mix their bytes."""
    wrong: list[bytes] = []

    def work(number: int) -> None:
        text = f"{number}".encode()
        with connect(proxy) as client:
            for _ in range(20):
                reply = ask(client, b"ECHO " + text + b"\r\n")
                if reply.split(b"\r\n")[1] != text:
                    wrong.append(reply)

    threads = [Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, proxy.connections) == ([], 20)


def test_figures_out_of_range_are_refused(redis_server: RedisServer) -> None:
    """A wrong figure is named and changes nothing."""
    proxy = FaultProxy(redis_server.address, redis_server.port)
    with pytest.raises(ConfigError, match="delay"):
        proxy.delay(-1)
    with pytest.raises(ConfigError, match="truncate"):
        proxy.truncate(-1)
    with pytest.raises(ConfigError, match="drop_reply"):
        proxy.drop_reply(b"")
    with proxy, pytest.raises(ConfigError, match="close"):
        proxy.start()


def wait_for_no_link(proxy: FaultProxy) -> None:
    give_up = time.monotonic() + PATIENCE
    while proxy.open_connections:
        assert time.monotonic() < give_up
        time.sleep(0.005)


def value_of(server: RedisServer, key: bytes) -> bytes:
    """The value that the server has, or gets soon."""
    give_up = time.monotonic() + PATIENCE
    with socket.create_connection((server.address, server.port), PATIENCE) as direct:
        while (reply := ask(direct, b"GET " + key + b"\r\n")) == b"$-1\r\n":
            assert time.monotonic() < give_up
            time.sleep(0.005)
    return reply.split(b"\r\n")[1]


def test_closing_with_open_connections_says_nothing(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        client = socket.create_connection((proxy.host, proxy.port), timeout=5)
        client.sendall(b"PING\r\n")
        assert client.recv(100)
    client.close()
    assert caplog.records == []
