"""What only a server can do: lie, hang, die and come back."""

import asyncio
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
import redis
from tests.integration.cache.conftest import wait_until_held

from datakit import events
from datakit.cache import Cache
from datakit.cache.backends import pool, pool_async
from datakit.cache.backends.base import Fill
from datakit.cache.backends.redis_dialect import RedisDialect
from datakit.cache.suspects import MAX_SUSPECTS
from datakit.errors import CacheUnavailableError, DeadlineExceededError
from datakit.resilience import CircuitBreaker, deadline
from datakit.testing import FakeClock, FaultProxy, RedisServer

TIMEOUT = 0.25
SLACK = 0.2  # seconds for a loaded machine


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + SLACK


@pytest.fixture
def side(own_server: RedisServer, side_of: Callable[[Cache], Any]) -> Any:
    """With a breaker that few failures do not open."""
    return side_of(Cache(own_server.url, timeout=TIMEOUT, breaker=CircuitBreaker()))


def raw(server: RedisServer) -> "redis.Redis":
    return redis.Redis(host=server.address, port=server.port)


@pytest.mark.parametrize("failure", ["kill", "stop_process"])
def test_lost_server_costs_one_timeout_and_hits_come_back(
    side: Any, own_server: RedisServer, failure: str, seen: list[events.Event], product: Any
) -> None:
    """The function runs meanwhile; when the server is back, so are the hits."""
    calls: list[int] = []

    def load(product_id: int) -> Any:
        calls.append(product_id)
        return product(product_id, "x", [])

    get_product = side.function(load)
    get_product(7)
    getattr(own_server, failure)()
    for _ in range(3):
        with at_most(TIMEOUT):
            assert get_product(7).id == 7
    assert len(calls) == 4
    assert {type(event) for event in seen} == {events.CacheUnavailable}
    if failure == "kill":
        own_server.restart()
    else:
        own_server.resume_process()
    get_product(7)
    before = len(calls)
    get_product(7)
    assert len(calls) == before


def test_loads_without_a_cache_are_bounded(own_server: RedisServer, side_of: Any) -> None:
    """A lost cache is no flood on the database: `max_loads` at once."""
    own_server.kill()
    side = side_of(Cache(own_server.url, timeout=TIMEOUT, max_loads=3))
    lock, running, peaks = threading.Lock(), [0], [0]

    def load() -> int:
        with lock:
            running[0] += 1
            peaks[0] = max(peaks[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return 1

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda n: side.cache.get_or_load(f"k{n}", load, 60), range(40)))
    assert peaks[0] == 3


def test_failed_invalidation_is_told_and_remembered(
    side: Any, own_server: RedisServer, product: Any
) -> None:
    """The stale value, still in the server, is not served by this process any more."""
    names = iter("abcdef")
    get_product = side.function(lambda product_id: product(product_id, next(names), []))
    assert get_product(7).name == "a"
    own_server.stop_process()
    with at_most(TIMEOUT), pytest.raises(CacheUnavailableError) as caught:
        get_product.invalidate(7)
    assert caught.value.__cause__ is not None
    with at_most(TIMEOUT):
        assert get_product(7).name == "b"
    own_server.resume_process()
    assert get_product(7).name == "c"
    assert get_product(7).name == "c"


def test_failed_put_is_told(side: Any, own_server: RedisServer) -> None:
    """An explicit operation that did not get through raises, and the old value is not served."""
    side.set("k", "old", 60)
    own_server.stop_process()
    with at_most(TIMEOUT), pytest.raises(CacheUnavailableError):
        side.set("k", "new", 60)
    own_server.resume_process()
    assert side.get("k") in (None, "new")


def test_failed_read_is_a_miss(side: Any, own_server: RedisServer) -> None:
    """`get` never raises for the server."""
    own_server.kill()
    with at_most(TIMEOUT):
        assert side.get("k") is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: b"garbage",
        lambda raw: raw[:-1],
        lambda raw: raw[:10],
        lambda raw: raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
        lambda raw: raw[:2] + b"\x09" + raw[3:],
    ],
    ids=["empty", "foreign", "cut", "header cut", "bit flipped", "other format"],
)
def test_spoilt_value_is_a_miss(
    side: Any, own_server: RedisServer, seen: list[events.Event], spoil: Any, product: Any
) -> None:
    """An event, the function, and the value is put right."""
    get_product = side.function(lambda product_id: product(product_id, "right", []))
    get_product(7)
    with raw(own_server) as client:
        client.set(get_product.key(7), spoil(client.get(get_product.key(7))))
    assert get_product(7).name == "right"
    assert [type(event) for event in seen] == [events.CacheValueRejected]
    assert get_product.peek(7).name == "right"


def test_value_of_another_key_is_a_miss(side: Any, own_server: RedisServer) -> None:
    """A reply meant for someone else is recognised."""
    side.set("a", "of a", 60)
    with raw(own_server) as client:
        client.set("b", client.get("a") or b"")
    assert side.get("b") is None


def test_other_type_under_the_key_is_a_miss(
    side: Any, own_server: RedisServer, seen: list[events.Event]
) -> None:
    """A list of another program is told by an event, and replaced by a store."""
    with raw(own_server) as client:
        client.rpush("k", 1)
    assert side.get_or_load("k", lambda: 5, 60) == 5
    assert side.get("k") == 5
    assert [type(event) for event in seen] == [events.CacheValueRejected]


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_other_type_under_a_plain_key_is_a_miss(
    side_of: Any, own_server: RedisServer, codec: str
) -> None:
    """No value is made of it where there is no envelope to look at."""
    side = side_of(Cache(own_server.url, envelope=False, codec=codec))
    with raw(own_server) as client:
        client.rpush("k", 1)
    assert side.get("k") is None


def test_server_forgets_what_expired(side: Any, own_server: RedisServer) -> None:
    """The server's own TTL is set, and not longer than asked."""
    side.set("k", 1, 100)
    side.set("forever", 1, None)
    with raw(own_server) as client:
        assert 89_000 <= int(client.pttl("k")) <= 100_000
        assert client.pttl("forever") == -1


def test_full_server_still_returns_the_value(side: Any, own_server: RedisServer) -> None:
    """A value that the server refuses is returned all the same."""
    with raw(own_server) as client:
        client.config_set("maxmemory", 1)
    assert side.get_or_load("k", lambda: 5, 60) == 5


def test_a_nearer_deadline_leaves_time_for_the_load(side: Any, own_server: RedisServer) -> None:
    """A cache that is silent takes half of it at most."""
    own_server.stop_process()
    with deadline(TIMEOUT):
        assert side.get_or_load("k", lambda: 5, 60) == 5
        assert deadline.remaining() != 0


def test_nothing_starts_after_the_deadline(side: Any) -> None:
    calls: list[int] = []
    with deadline(0), pytest.raises(DeadlineExceededError):
        side.get_or_load("k", lambda: calls.append(1), 60)
    assert calls == []


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a machine that is gone: its kernel answers no connection attempt."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.24", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.24:{listener.getsockname()[1]}"


def test_a_deadline_shorter_than_connecting_takes_is_no_error(
    side_of: Any, black_hole: str, seen: list[events.Event]
) -> None:
    """And the breaker learns from it."""
    side = side_of(Cache(f"redis://{black_hole}"))
    for n in range(8):
        with deadline(0.4):
            assert side.get_or_load(f"k{n}", lambda: 5, 60) == 5
    assert any(isinstance(event, events.BreakerOpened) for event in seen)


def test_what_a_user_asks_for_has_all_of_the_time(side_of: Any, redis_server: RedisServer) -> None:
    """No load follows it."""
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        side = side_of(Cache(f"redis://127.0.0.1:{proxy.port}", timeout=5))
        side.set("k", 1, 60)
        proxy.delay(0.3)
        with deadline(0.5):
            side.delete("k")
        proxy.heal()


def test_callers_in_a_hurry_find_out_a_server_that_refuses(
    side_of: Any, own_server: RedisServer, seen: list[events.Event]
) -> None:
    """A refusal takes no time."""
    side = side_of(Cache(own_server.url))
    own_server.kill()
    for _ in range(8):
        with deadline(0.1), suppress(DeadlineExceededError):
            side.get("k")
    assert any(isinstance(event, events.BreakerOpened) for event in seen)


def test_callers_in_a_hurry_say_nothing_of_the_server(
    side_of: Any, own_server: RedisServer, seen: list[events.Event]
) -> None:
    """Their silence of milliseconds opens no breaker, unless it goes on."""
    side = side_of(Cache(own_server.url))
    side.set("k", 1, 60)
    own_server.stop_process()
    for is_opened in (False, True):
        for _ in range(8):
            with deadline(0.02), suppress(DeadlineExceededError):
                side.get("k")
        assert is_opened == any(isinstance(event, events.BreakerOpened) for event in seen)


@pytest.fixture
def crowded(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to a server that takes one exchange at a time."""
    monkeypatch.setattr(pool, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(pool_async, "MAX_CONNECTIONS", 1)
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        yield proxy


def test_threads_in_a_hurry_that_get_no_connection_say_nothing_of_the_server(
    crowded: FaultProxy, seen: list[events.Event]
) -> None:
    with (
        closing(Cache(f"redis://127.0.0.1:{crowded.port}", timeout=5)) as cache,
        ThreadPoolExecutor(1) as executor,
    ):
        cache.set("k", 1, 60)
        crowded.delay(2)
        slow = executor.submit(cache.get, "k")
        wait_until_held(crowded)
        for _ in range(8):
            with deadline(0.02):
                assert cache.get("k") is None
        assert slow.result() == 1
    assert not any(isinstance(event, events.BreakerOpened) for event in seen)


async def test_tasks_in_a_hurry_that_get_no_connection_say_nothing_of_the_server(
    crowded: FaultProxy, seen: list[events.Event]
) -> None:
    cache = Cache(f"redis://127.0.0.1:{crowded.port}", timeout=5).aio
    await cache.set("k", 1, 60)
    crowded.delay(2)
    slow = asyncio.create_task(cache.get("k"))
    await asyncio.to_thread(wait_until_held, crowded)
    for _ in range(8):
        with deadline(0.02):
            assert await cache.get("k") is None
    assert await slow == 1
    await cache.close()
    assert not any(isinstance(event, events.BreakerOpened) for event in seen)


@pytest.mark.parametrize("sent", [0, 1])
def test_a_put_wins_over_a_load_that_began_when_half_of_it_was_sent(
    redis_server: RedisServer, sent: int
) -> None:
    """A large value is a while on its way, and the server serves others meanwhile."""
    dialect, key = RedisDialect(), uuid.uuid4().hex
    server: Any = raw(redis_server)

    def ask(request: Any, first: int = 0, end: int | None = None) -> Any:
        return request.read([server.execute_command(*c) for c in request.commands[first:end]])

    put = dialect.set([(key, b"put", 60.0)])
    ask(put, 0, sent)
    (grant,) = ask(dialect.acquire([key], 60.0))
    assert grant.lease is not None
    ask(put, sent)
    assert ask(dialect.fill([Fill(key, b"loaded", 60.0, grant.lease)])) == [False]
    assert server.get(key) == b"put"


@contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does `talk` with each connection; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    conn, _ = listener.accept()
                    threading.Thread(target=serve, args=(conn,), daemon=True).start()

        def serve(conn: socket.socket) -> None:
            with conn, suppress(OSError):
                talk(conn)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def drip(conn: socket.socket) -> None:
    conn.recv(1000)
    for _ in range(100):
        conn.sendall(b"%")
        time.sleep(0.05)


def nonsense(conn: socket.socket) -> None:
    while conn.recv(1000):
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def reset(conn: socket.socket) -> None:
    conn.recv(1000)


@pytest.mark.parametrize("talk", [drip, nonsense, reset])
def test_lying_server_costs_one_timeout(side_of: Any, talk: Any) -> None:
    """Bytes that drip in, another protocol, a close: the loader's value, in time."""
    with serving(talk) as address:
        side = side_of(Cache(f"redis://{address}", timeout=TIMEOUT))
        with at_most(TIMEOUT):
            assert side.get_or_load("k", lambda: 5, 60) == 5


SECRET = "canary-secret-7f3a"


def old_redis(conn: socket.socket) -> None:
    """Redis 5: no HELLO, and its refusal echoes the arguments."""
    while data := conn.recv(4000):
        if b"HELLO" in data:
            words = data.decode().split("\r\n")[2::2]
            conn.sendall(f"-ERR unknown command `{words[0]}`, args: {words[1:]}\r\n".encode())
            continue
        for command in re.split(rb"\*\d+\r\n", data)[1:]:
            conn.sendall(b"$-1\r\n" if command.startswith(b"$3\r\nGET") else b"+OK\r\n")


def test_server_without_resp3_is_asked_for_resp2(side_of: Any, seen: list[events.Event]) -> None:
    """The protocol is stepped down once, and the password shows nowhere."""
    with serving(old_redis) as address:
        side = side_of(Cache(f"redis://app:{SECRET}@{address}/2", timeout=2))
        assert side.get_or_load("k", lambda: 5, 60) == 5
        side.set("k", 1, 60)
    assert seen == []


def test_wrong_password_shows_nowhere(side_of: Any, seen: list[events.Event]) -> None:
    """Neither the error, its causes, the event nor the repr hold it."""
    with RedisServer(config={"requirepass": "right"}) as server:
        cache = Cache(f"redis://app:{SECRET}@{server.address}:{server.port}", timeout=2)
        side = side_of(cache)
        with pytest.raises(CacheUnavailableError) as caught:
            side.delete("k")
    error: BaseException | None = caught.value
    texts = [repr(cache), repr(seen)]
    while error is not None:
        texts.append(repr(error))
        error = error.__cause__ or error.__context__
    assert SECRET not in "".join(texts)
    assert len(seen) == 1


def test_password_opens(side_of: Any) -> None:
    """The URL's password and database number are used."""
    with RedisServer(config={"requirepass": SECRET}) as server:
        side = side_of(Cache(f"redis://:{SECRET}@{server.address}:{server.port}/3", timeout=2))
        side.set("k", 1, 60)
        assert side.get("k") == 1
        client = redis.Redis(host=server.address, port=server.port, password=SECRET, db=3)
        with client:
            assert client.exists("k")


def test_cancelled_call_leaves_no_reply_behind(own_server: RedisServer) -> None:
    """The connection of a cancelled call is not used again."""

    async def main() -> None:
        cache = Cache(own_server.url, timeout=2)
        await cache.aio.set("a", "a", 60)
        await cache.aio.set("b", "b", 60)
        for _ in range(20):
            task = asyncio.create_task(cache.aio.get("a"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            assert await cache.aio.get("b") == "b"
        await cache.aio.close()

    asyncio.run(main())


def test_cancelled_waiter_leaves_the_load_to_the_others(own_server: RedisServer) -> None:
    """Only its own wait ends."""
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        await asyncio.sleep(0.1)
        return 5

    async def main() -> None:
        cache = Cache(own_server.url, timeout=2)
        waiters = [asyncio.create_task(cache.aio.get_or_load("k", load, 60)) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiters[0].cancel()
        assert await asyncio.gather(*waiters[1:]) == [5, 5]
        assert waiters[0].cancelled()
        await cache.aio.close()

    asyncio.run(main())
    assert calls == [1]


def test_several_event_loops_share_a_cache(own_server: RedisServer) -> None:
    """Connections belong to one loop; the next loop has its own."""
    cache = Cache(own_server.url, timeout=2)

    async def main(value: int) -> object:
        await cache.aio.set("k", value, 60)
        found = await cache.aio.get("k")
        await cache.aio.close()
        return found

    assert [asyncio.run(main(value)) for value in range(3)] == [0, 1, 2]


def test_forked_child_opens_its_own_connections(own_server: RedisServer) -> None:
    """Parent and child never read each other's replies."""
    cache = Cache(own_server.url, timeout=2)
    cache.set("k", "value", 60)
    child = os.fork()
    if child == 0:
        good = all(cache.get("k") == "value" for _ in range(50))
        os._exit(0 if good else 1)
    assert all(cache.get("k") == "value" for _ in range(50))
    assert os.waitpid(child, 0)[1] == 0
    cache.close()


def test_more_callers_than_connections_wait_their_turn(side: Any, product: Any) -> None:
    """The number of connections is bounded, and nobody fails for it."""
    get_product = side.function(lambda product_id: product(product_id, "x", []))
    get_product(7)
    assert len(get_product.crowd(100, 7)) == 100


async def test_an_invalidation_that_is_cancelled_leaves_the_key_in_doubt(
    redis_server: RedisServer,
) -> None:
    """The server may not have taken it: the old value must not be served on."""
    with FaultProxy(redis_server.address, redis_server.port) as proxy:
        cache = Cache(f"redis://{proxy.host}:{proxy.port}", namespace="doubt", timeout=5)
        values = ["old", "new"]

        @cache.cached(ttl=60)
        async def value() -> str:
            return values.pop(0)

        assert await value() == "old"
        proxy.black_hole()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await value.invalidate()
        proxy.reset()
        proxy.heal()
        assert await value() == "new"
        await cache.aio.close()


def test_what_cannot_be_stored_makes_nobody_wait(side_of: Any) -> None:
    """The lease of a value that the server refuses stays there, since it refuses all of it."""
    clock = FakeClock()
    with RedisServer(config={"proto-max-bulk-len": "1mb"}) as server:
        side = side_of(Cache(server.url, clock=clock, compress_over=None))
        began = clock.monotonic()
        for n in range(3):
            value = os.urandom(2 << 20)
            assert side.get_or_load("k", lambda value=value: value, 60) == value, n
        assert clock.monotonic() == began


def test_values_alone_are_served_again_once_all_that_was_in_doubt_has_expired(
    side_of: Any, product: Any
) -> None:
    """They do not say when they were stored."""
    clock = FakeClock()
    with RedisServer() as server:
        cache = Cache(
            server.url, clock=clock, codec="json", envelope=False, on_invalidate_error="queue"
        )
        side = side_of(cache)
        one = product(1, "one", [])
        get = side.many(lambda ids: dict.fromkeys(ids, one), ttl="1h", key="n:{ids}")
        assert get([1]) == {1: one}
        port = server.port
    get.invalidate(range(MAX_SUSPECTS + 1))
    with RedisServer(port=port):
        clock.advance(120)
        get([1])
        hits = cache.stats().hits
        get([1])
        assert cache.stats().hits == hits
        clock.advance(3600)
        get([1])
        get([1])
        assert cache.stats().hits > hits
