"""A memcached of one's own: started, killed, started again empty, and never another's."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pymemcache.client.base import Client

from datakit.errors import ConfigError
from datakit.testing import MemcachedServer


@contextmanager
def client_of(server: MemcachedServer, timeout: float = 5) -> Iterator[Client]:
    with closing(Client((server.address, server.port), timeout=timeout)) as client:
        yield client


def test_it_comes_back_empty_on_the_same_port() -> None:
    with MemcachedServer() as server:
        port = server.port
        with client_of(server) as client:
            client.set("key", b"value", noreply=False)
        server.kill()
        assert not server.alive
        server.restart()
        assert (server.alive, server.port) == (True, port)
        with client_of(server) as client:
            assert client.get("key") is None


def test_a_stopped_one_answers_once_it_goes_on() -> None:
    with MemcachedServer() as server:
        with client_of(server) as client:
            client.set("key", b"value", noreply=False)
        server.stop_process()
        with client_of(server, 0.2) as client, pytest.raises(TimeoutError):
            client.get("key")
        server.resume_process()
        with client_of(server) as client:
            assert client.get("key") == b"value"


def test_a_port_that_another_program_has_is_no_start() -> None:
    with MemcachedServer() as other, pytest.raises(RuntimeError, match="in use"):
        MemcachedServer(port=other.port).start()


def test_it_is_started_once_and_closed_as_often_as_one_likes() -> None:
    server = MemcachedServer()
    with server, pytest.raises(ConfigError, match="started already"):
        server.start()
    server.close()
    with pytest.raises(ConfigError, match="not running"):
        server.kill()
