"""A cache logs in with what `auth=` gives, and an ElastiCache token works in redis-py too."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from datakit import Cache, ElastiCacheIam, events
from datakit.auth import Login
from datakit.auth.credentials import Credentials
from datakit.cache.backends import pool, redis_link, redis_link_async
from datakit.errors import ConfigError
from datakit.testing import FakeClock, RedisServer

USER = "app-user"
PASSWORD = "pass word"
both = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.acl_deluser(USER)
    client.close()


def allow(admin: redis.Redis, password: str) -> None:
    """Let the user log in with this password alone."""
    admin.acl_setuser(
        USER, enabled=True, reset=True, passwords=[f"+{password}"], keys=["*"], categories=["+@all"]
    )


def logins(admin: redis.Redis) -> int:
    return sum(client["user"] == USER for client in admin.client_list())


class Twin:
    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.kind = kind
        self.cache = Cache(url.replace("redis://", f"redis://{USER}@"), namespace="a", **options)

    async def round_trip(self, value: int) -> Any:
        """Return what is read after `value` was stored."""
        if self.kind == "sync":
            return await asyncio.to_thread(self._round_trip, value)
        await self.cache.aio.set("key", value, ttl=60)
        return await self.cache.aio.get("key")

    async def close(self) -> None:
        self.cache.close()
        await self.cache.aio.close()

    def _round_trip(self, value: int) -> Any:
        self.cache.set("key", value, ttl=60)
        return self.cache.get("key")


@both
async def test_a_refused_password_is_asked_for_once_more(
    kind: str, redis_server: RedisServer, admin: redis.Redis
) -> None:
    allow(admin, PASSWORD)
    passwords = iter(["old", PASSWORD, "never asked for"])
    twin = Twin(kind, redis_server.url, auth=lambda: next(passwords))
    assert await twin.round_trip(1) == 1
    assert logins(admin) == 1
    assert next(passwords) == "never asked for"
    await twin.close()


@both
async def test_a_cache_that_cannot_log_in_is_only_slower(
    kind: str, redis_server: RedisServer, admin: redis.Redis
) -> None:
    def broken() -> str:
        raise RuntimeError("no password to be had")

    allow(admin, PASSWORD)
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    for auth in (lambda: "wrong", broken, lambda: None):
        cache = Cache(redis_server.url, auth=auth)
        if kind == "sync":
            found = await asyncio.to_thread(cache.get_or_load, "key", lambda: 7, 60)
        else:

            async def load() -> int:
                return 7

            found = await cache.aio.get_or_load("key", load, 60)
        assert found == 7
        cache.close()
        await cache.aio.close()
    unsubscribe()
    assert any(isinstance(event, events.CacheUnavailable) for event in seen)


@both
async def test_a_connection_that_is_to_be_dropped_is_replaced_before(
    kind: str, redis_server: RedisServer, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(admin, PASSWORD)
    asked: list[int] = []

    def password() -> str:
        asked.append(1)
        return PASSWORD

    twin = Twin(kind, redis_server.url, auth=password)
    for value in (1, 2):
        assert await twin.round_trip(value) == value
    assert len(asked) == 1
    for module in (redis_link, redis_link_async):
        monkeypatch.setattr(module, "is_outlived", lambda *_: True)
    monkeypatch.setattr(pool, "PROBED_AFTER", -1.0)
    assert await twin.round_trip(3) == 3
    assert len(asked) == 3
    await twin.close()


class Given:
    blocking = False

    def load(self) -> Credentials:
        return Credentials("AKID", "secret", "session " * 100)

    def forget(self) -> None:
        """There are no others."""


async def test_a_token_logs_redis_py_in(redis_server: RedisServer, admin: redis.Redis) -> None:
    auth = ElastiCacheIam(
        "Shop", USER, region="eu-west-1", serverless=True, credentials=Given(), clock=FakeClock()
    )
    token = auth.login(Login("ignored", 0, "ignored")).password
    assert token is not None
    assert token.startswith("shop/?Action=connect&User=app-user&ResourceType=ServerlessCache")
    assert len(token) > 1_000
    allow(admin, token)
    host, _, port = redis_server.url.removeprefix("redis://").partition(":")
    options: dict[str, Any] = {"host": host, "port": int(port.partition("/")[0])}
    with redis.Redis(credential_provider=auth.provider(), **options) as client:
        assert client.ping()
    async with redis.asyncio.Redis(credential_provider=auth.provider(), **options) as aclient:
        assert await aclient.ping()


def test_tokens_do_not_go_out_in_the_clear() -> None:
    auth = ElastiCacheIam("shop", USER, region="eu-west-1")
    with pytest.raises(ConfigError, match="verified TLS"):
        Cache("redis://cache.shop.internal", auth=auth)
    Cache("rediss://cache.shop.internal", auth=auth)
    with pytest.raises(ConfigError, match="memory"):
        Cache("memory://", auth=lambda: "password")
    with pytest.raises(ConfigError, match="auth="):
        Cache("redis://cache.shop.internal", auth="password")  # type: ignore[arg-type]
