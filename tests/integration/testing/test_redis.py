import pytest
import redis

from datakit.errors import ConfigError
from datakit.testing import RedisServer


def client(server: RedisServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None)


@pytest.mark.parametrize("binaries", ["wheel", "system"])
def test_server_answers_and_keeps_nothing(binaries: str) -> None:
    """Each build serves its URL; a restart has the same port and no data."""
    with RedisServer(binaries=binaries) as server, client(server) as c:
        assert c.set("key", "value")
        url = server.url
        server.kill()
        assert not server.alive
        with pytest.raises(redis.ConnectionError):
            c.get("key")
        server.restart()
        assert (server.url, c.get("key")) == (url, None)


def test_stopped_server_is_silent_until_resumed() -> None:
    """SIGSTOP turns every command into a timeout, and nothing is lost."""
    with RedisServer() as server, client(server) as c:
        c.set("key", "value")
        server.stop_process()
        with pytest.raises(redis.TimeoutError):
            c.get("key")
        server.resume_process()
        assert c.get("key") == b"value"


def test_directives_reach_the_server() -> None:
    """config= is redis.conf's."""
    with RedisServer(config={"requirepass": "secret"}) as server:
        with client(server) as c, pytest.raises(redis.AuthenticationError):
            c.ping()
        assert "secret" not in repr(server)


def test_wrong_use_is_refused(redis_server: RedisServer) -> None:
    """A port that is taken, a bad directive and a second start are told apart."""
    with pytest.raises(RuntimeError, match="Address already in use"):
        RedisServer(port=redis_server.port).start()
    with pytest.raises(RuntimeError, match="no-such-directive"):
        RedisServer(config={"no-such-directive": "1"}).start()
    with pytest.raises(ConfigError, match="close"):
        redis_server.start()
    with pytest.raises(ConfigError, match="not running"):
        RedisServer().kill()
