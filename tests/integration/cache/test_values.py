"""How values lie in a server, and what becomes of those that are no use."""

import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import redis
from tests.integration.cache.conftest import Loader

from datakit import events
from datakit.cache import Cache, SignedPickle
from datakit.errors import CodecError, ConfigError
from datakit.testing import MemcachedServer, RedisServer

SECRET = "canary-secret-value"
OLD, NEW = b"o" * 32, b"n" * 32


@dataclass
class Item:
    id: int
    text: str


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    client = redis.Redis(host=redis_server.address, port=redis_server.port)
    yield client
    client.close()


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def make(
    redis_server: RedisServer, namespace: str, side_of: Callable[[Cache], Any]
) -> Callable[..., Any]:
    """Return what makes a side of a cache on Redis, with options."""

    def make(**options: Any) -> Any:
        cache = Cache(redis_server.url, **{"namespace": namespace, "timeout": 5, **options})
        return side_of(cache)

    return make


def read(side: Any, fallback: Any = None) -> Any:
    """Return what is kept under "k", else `fallback`, which is kept then."""

    def load() -> Item:
        return Item(0, fallback)

    return side.get_or_load("k", load, 60).text


def test_encrypted_values_are_not_readable(make: Any, raw: Any, namespace: str) -> None:
    """And come back with their type."""
    side = make(encrypt={"2026": NEW})
    assert read(side, SECRET) == read(side) == SECRET
    assert SECRET.encode() not in raw.get(f"{namespace}:k")


def test_keys_rotate(make: Any) -> None:
    """The first key encrypts, all decrypt; without the old one its values are misses."""
    assert read(make(encrypt={"old": OLD}), "a") == "a"
    rotating = make(encrypt={"new": NEW, "old": OLD})
    assert read(rotating) == "a"
    rotating.delete("k")
    assert read(rotating, "b") == "b"
    assert read(make(encrypt={"new": NEW}), "c") == "b"
    assert read(make(encrypt={"old": OLD}), "d") == "d"


def test_plain_value_is_no_use_where_encryption_is_asked(
    make: Any, seen: list[events.Event]
) -> None:
    """Whoever can write to the server cannot put values in."""
    assert read(make(), "forged") == "forged"
    assert read(make(encrypt={"a": NEW}), "right") == "right"
    assert [type(event) for event in seen] == [events.CacheValueRejected]
    assert read(make(), "plain again") == "plain again"


@pytest.mark.parametrize(
    "options",
    [{"encrypt": {}}, {"encrypt": {"a": b"short"}}, {"encrypt": {"": NEW}}, {"codec": "pickle"},
     {"envelope": False, "encrypt": {"a": NEW}}, {"l1": object()}, {"resolver": object()},
     {"envelope": False, "codec": SignedPickle(NEW)}, {"on_invalidate_error": "ignore"},
     {"max_bytes": 0}, {"refresh_threads": -1}],
)  # fmt: skip
def test_mistaken_options_are_refused(options: Any) -> None:
    """Without the key in the message."""
    with pytest.raises(ConfigError) as caught:
        Cache("redis://cache.example", **options)
    assert "nnn" not in str(caught.value)


class Anything:
    """No plain data."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        unpickled.append(self.text)
        return Anything, (self.text,)


unpickled: list[str] = []


def planted(text: str) -> None:
    unpickled.append(text)


class Planted:
    """What an attacker would like to see unpickled."""

    def __reduce__(self) -> Any:
        return planted, ("planted",)


def test_signed_pickles_hold_any_object(make: Any) -> None:
    """Only by explicit wish, and with a key."""
    side = make(codec=SignedPickle(NEW))

    def load() -> Any:
        return Anything("x")

    assert side.get_or_load("k", load, 60).text == "x"
    assert side.get_or_load("k", lambda: None, 60).text == "x"


def test_pickle_with_another_signature_is_not_looked_at(
    make: Any, raw: Any, namespace: str, seen: list[events.Event]
) -> None:
    """Neither one of another key, nor one put under another name."""
    side = make(codec=SignedPickle(NEW))
    make(codec=SignedPickle(OLD)).set("k", Planted(), 60)
    assert side.get("k") is None
    side.set("a", Planted(), 60)
    raw.set(f"{namespace}:b", raw.get(f"{namespace}:a"))
    assert side.get("b") is None
    assert unpickled.count("planted") == 0
    assert [type(event) for event in seen] == [events.CacheValueRejected] * 2
    assert b"planted" in pickle.dumps(Planted())


def test_plain_json_for_other_programs(make: Any, raw: Any, product: Any) -> None:
    """SET product:1234 {...}, with the server's own TTL."""
    side = make(codec="json", envelope=False, namespace="")
    name = f"product-{uuid.uuid4().hex}"
    load = Loader(product)
    get_product = side.function(load, key=name + ":{product_id}", ttl=3600)
    assert get_product(1234) == get_product(1234) == product(1234, "name 1", ["a", "b"])
    key = f"{name}:1234"
    assert json.loads(raw.get(key)) == {"id": 1234, "name": "name 1", "tags": ["a", "b"]}
    assert 3200 < raw.ttl(key) <= 3600
    raw.set(key, '{"id": 5, "name": "theirs", "tags": []}')
    assert get_product(1234) == product(5, "theirs", [])
    raw.set(key, '{"id": 5, "na')
    assert get_product(1234).name == "name 2"


def test_json_in_an_envelope(make: Any) -> None:
    """Typed like msgpack."""
    side = make(codec="json")
    assert read(side, "a") == read(side) == "a"


def test_changed_return_type_is_a_miss(make: Any, seen: list[events.Event]) -> None:
    """Even where the old bytes could be decoded; never a crash."""
    side = make()

    def old() -> dict[str, int]:
        return {"id": 1}

    def new() -> dict[str, float]:
        return {"id": 2.0}

    assert side.get_or_load("k", old, 60) == {"id": 1}
    assert side.get_or_load("k", new, 60) == {"id": 2.0}
    assert side.get_or_load("k", new, 60) == {"id": 2.0}
    assert [event.reason for event in seen] == [  # type: ignore[attr-defined]
        "of another return type or version"
    ]


class Base(pydantic.BaseModel):
    id: int = pydantic.Field(alias="ID")


class Derived(Base):
    more: str = "more"


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("returned", "value", "kept"),
    [
        (Base, Base(ID=1), True),
        (datetime, datetime(2026, 3, 28, 0, 30, tzinfo=timezone(timedelta(hours=1))), True),
        (list[Base], [Derived(ID=1)], False),
        (Login, Login(password=pydantic.SecretStr(SECRET)), False),
        (Decimal, 1.5, False),
        (Any, [Item(1, "x")], False),
        (Any, (1, 2), False),
    ],
)
def test_a_hit_is_what_the_first_call_gave(
    make: Any, codec: str, returned: Any, value: Any, kept: bool
) -> None:
    """What would come back as something else is not kept."""
    calls = []

    def load() -> Any:
        calls.append(1)
        return value

    load.__annotations__["return"] = returned
    side = make(codec=codec)
    found = [side.get_or_load("k", load, 60) for _ in range(3)]
    assert found == [value] * 3
    assert [str(one) for one in found] == [str(value)] * 3
    assert len(calls) == (1 if kept else 3)


@pytest.mark.parametrize("where", ["memory", "redis"])
@pytest.mark.parametrize(
    ("returned", "value", "found"),
    [
        (int, "not a number", 7),
        (int, None, 7),
        (int, 5, 5),
        (float, 5, 5.0),
        (datetime, "2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),
        (Base, "text", 7),
    ],
)
def test_a_value_that_was_set_is_read_as_the_type_asked_for(
    make: Any, side_of: Any, where: str, returned: Any, value: Any, found: Any
) -> None:
    """Else it is a miss: in memory, where the value itself lies, as in a server."""
    side = make() if where == "redis" else side_of(Cache())

    def load() -> Any:
        return 7

    load.__annotations__["return"] = returned
    side.set("k", value, 60)
    read = side.get_or_load("k", load, 60)
    assert (read, type(read)) == (found, type(found))


def test_version_is_part_of_a_spelled_key_too(make: Any) -> None:
    """The key is the same for other programs; a value of another version is a miss."""
    side = make()
    first = side.function(lambda n: None, key="k:{product_id}", version=1)
    second = side.function(lambda n: None, key="k:{product_id}", version=2)
    first(7)
    assert first.key(7) == second.key(7)
    assert side.cache.explain(second.fn, 7).verdict == "miss"
    assert side.cache.explain(first.fn, 7).verdict == "hit"


def test_large_values_are_compressed(make: Any, raw: Any, namespace: str) -> None:
    """Above a size, where it helps."""
    side = make(compress_over=1000)
    side.set("large", "abc" * 10_000, 60)
    side.set("small", "abc" * 100, 60)
    assert side.get("large") == "abc" * 10_000
    assert side.get("small") == "abc" * 100
    assert len(raw.get(f"{namespace}:large")) < 1000
    assert len(raw.get(f"{namespace}:small")) > 300


def test_value_too_large_for_memcached(
    memcached_server: MemcachedServer, side_of: Any, namespace: str, seen: list[events.Event]
) -> None:
    """Checked before it is sent; returned all the same; an explicit set is told."""
    side = side_of(Cache(memcached_server.url, namespace=namespace, timeout=5, compress_over=None))
    value = "x" * 1024 * 1024
    assert side.get_or_load("k", lambda: value, 60) == value
    assert side.get("k") is None
    with pytest.raises(CodecError, match="bytes, and the store takes"):
        side.set("k", value, 60)
    assert [type(event) for event in seen] == [events.CacheValueRejected]


def test_a_cache_with_secrets_shows_none(make: Any) -> None:
    """In no repr."""
    side = make(encrypt={"a": NEW}, codec=SignedPickle(OLD))
    assert "nnn" not in repr(side.cache) + repr(SignedPickle(NEW))
