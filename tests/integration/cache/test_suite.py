"""What every backend does, from threads and from tasks."""

import secrets
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.cache.conftest import Loader

from datakit import events
from datakit.cache import Cache
from datakit.errors import CodecError, ConfigError
from datakit.testing import FakeClock


def test_value_is_loaded_once_and_has_its_type(side: Any, product: Any) -> None:
    """The second call is served from the cache, as the dataclass of the annotation."""
    load = Loader(product)
    get_product = side.function(load)
    assert get_product(7) == get_product(7) == product(7, "name 1", ["a", "b"])
    assert load.calls == 1


def test_none_is_a_value(side: Any) -> None:
    """A cached None is not taken for a miss."""
    calls: list[int] = []
    get_product = side.function(calls.append)
    assert get_product(7) is None
    assert get_product(7) is None
    assert calls == [7]


def test_value_expires(side: Any, product: Any, clock: FakeClock) -> None:
    """After the TTL the function runs again; jitter never lengthens it."""
    load = Loader(product)
    get_product = side.function(load, ttl=60)
    get_product(7)
    clock.advance(53)
    get_product(7)
    assert load.calls == 1
    clock.advance(7)
    get_product(7)
    assert load.calls == 2


@pytest.mark.parametrize("ttl", [0, -1, lambda value: 0])
def test_ttl_of_zero_is_not_stored(side: Any, product: Any, ttl: Any) -> None:
    """Nothing is kept when the TTL says so."""
    load = Loader(product)
    get_product = side.function(load, ttl=ttl)
    get_product(7)
    get_product(7)
    assert load.calls == 2


def test_ttl_none_never_expires(side: Any, product: Any, clock: FakeClock) -> None:
    """None is forever, said on purpose."""
    load = Loader(product)
    get_product = side.function(load, ttl=None)
    get_product(7)
    clock.advance(1e9)
    get_product(7)
    assert load.calls == 1


def test_a_mutated_result_harms_nobody(side: Any, product: Any) -> None:
    """Every caller has an object of its own."""
    get_product = side.function(Loader(product))
    get_product(7).tags.append("mine")
    get_product(7).tags.append("mine")
    assert get_product(7).tags == ["a", "b"]


def test_helpers(side: Any, product: Any) -> None:
    """invalidate, refresh, peek and put take the call's arguments."""
    load = Loader(product)
    get_product = side.function(load)
    assert get_product.peek(7) is None
    get_product(7)
    assert get_product.peek(7).name == "name 1"
    assert get_product.refresh(7).name == "name 2"
    assert get_product(7).name == "name 2"
    get_product.put(product(7, "put", []), 7)
    assert get_product(7).name == "put"
    get_product.invalidate(7)
    assert get_product.peek(7) is None
    assert get_product(7).name == "name 3"


def test_crowd_on_a_cold_key_loads_once(side: Any, product: Any) -> None:
    """200 callers at once share one load, and each has an object of its own."""
    load = Loader(product, seconds=0.05)
    results = side.function(load).crowd(200, 7)
    assert load.calls == 1
    assert results == [product(7, "name 1", ["a", "b"])] * 200
    assert len({id(result) for result in results}) == 200


def test_crowd_on_an_expired_key_loads_once(side: Any, product: Any, clock: FakeClock) -> None:
    """An expiry under load is one load, not a herd."""
    load = Loader(product, seconds=0.05)
    get_product = side.function(load)
    get_product(7)
    clock.advance(61)
    get_product.crowd(200, 7)
    assert load.calls == 2


def test_error_of_the_loader_goes_up_as_it_is(side: Any) -> None:
    """The very object, unwrapped; nothing is cached."""
    error = KeyError("no such product")
    calls: list[int] = []

    def load(product_id: int) -> None:
        calls.append(product_id)
        raise error

    get_product = side.function(load)
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            get_product(7)
        assert caught.value is error
    assert calls == [7, 7]


def test_invalidation_wins_over_a_late_fill(side: Any, cache: Cache, product: Any) -> None:
    """A load begun before the invalidation is returned but not kept."""
    loading, go_on = threading.Event(), threading.Event()

    def load(product_id: int) -> Any:
        loading.set()
        assert go_on.wait(10)
        return product(product_id, "old", [])

    get_product = side.function(load)
    key = get_product.key(7).partition(":")[2]

    def invalidate() -> None:
        assert loading.wait(10)
        cache.delete(key)
        go_on.set()

    invalidating = threading.Thread(target=invalidate)
    invalidating.start()
    assert get_product(7).name == "old"
    invalidating.join()
    assert get_product.peek(7) is None
    cache.close()


def test_plain_operations(side: Any) -> None:
    """get, set and delete of a key that the user names."""
    assert side.get("k") is None
    side.set("k", {"a": [1, 2.5, "x", b"y", None]}, 60)
    assert side.get("k") == {"a": [1, 2.5, "x", b"y", None]}
    side.delete("k")
    assert side.get("k") is None
    side.delete("k")


def test_set_with_no_ttl_left_removes(side: Any) -> None:
    """An explicit set that must not be stored does not leave the old value."""
    side.set("k", "old", 60)
    side.set("k", "new", 0)
    assert side.get("k") is None


@pytest.mark.parametrize("key", ["plain", "a b", "x" * 500, "ключ", "line\r\nbreak", "", "#"])
def test_any_text_is_a_key(side: Any, key: str) -> None:
    """Long and odd keys work and stay apart."""
    side.set(key, key, 60)
    side.set(key + "!", "other", 60)
    assert side.get(key) == key


def test_no_text_is_a_key_without_a_namespace_too(side_of: Any, url: str) -> None:
    """An empty key is none of the words that come after it."""
    side = side_of(Cache(url, timeout=5))
    side.set("v", "of v", 60)
    side.set("", "of nothing", 60)
    assert [side.get(""), side.get("v")] == ["of nothing", "of v"]


def test_get_or_load_decodes_to_the_annotation(side: Any) -> None:
    """The loader's return type is the value's."""

    def load() -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    first = side.get_or_load("when", load, "5m")
    assert side.get_or_load("when", load, "5m") == first == load()


def test_explicit_set_of_what_cannot_be_stored(side: Any) -> None:
    """The caller asked for the store, so it is an error."""
    with pytest.raises(CodecError, match="a object cannot be stored"):
        side.set("k", object(), 60)


def test_result_that_cannot_be_stored_is_returned(side: Any, seen: list[events.Event]) -> None:
    """The caller of a cached function still gets its value, and an event tells."""
    value = object()
    assert side.get_or_load("k", lambda: value, 60) is value
    assert [type(event) for event in seen] == [events.CacheValueRejected]


def test_result_that_cannot_be_stored_is_handed_to_one_caller(side: Any, product: Any) -> None:
    """Callers who waited for it get their own: nobody else may change it, or use it up."""

    class Special(product):  # type: ignore[misc]
        pass

    found = side.function(Loader(Special, seconds=0.2)).crowd(8, 7)
    assert len({id(one) for one in found}) == 8


def test_refresh_to_a_value_without_a_lifetime_removes_the_old_one(side: Any, product: Any) -> None:
    """And the function of the result is asked once for each."""
    asked: list[str] = []

    def ttl(one: Any) -> int:
        asked.append(one.name)
        return 60 if one.name == "name 1" else 0

    get_product = side.function(Loader(product), ttl=ttl)
    get_product(7)
    assert get_product.refresh(7).name == "name 2"
    assert get_product.peek(7) is None
    assert asked == ["name 1", "name 2"]


@pytest.mark.parametrize("server", ["memory", "memcached"])
def test_refresh_to_a_value_that_is_too_large_removes_the_old_one(
    server: str, request: pytest.FixtureRequest, side_of: Any, product: Any
) -> None:
    """Whoever asked for the new value is not served the old one next."""
    is_memory = server == "memory"
    url = "memory://" if is_memory else request.getfixturevalue("memcached_server").url
    cache = Cache(url, namespace=uuid.uuid4().hex, timeout=5, max_bytes=1_000_000)
    names = ["small", secrets.token_hex(2_000_000)]
    get_product = side_of(cache).function(lambda n: product(n, names.pop(0), []))
    get_product(7)
    assert len(get_product.refresh(7).name) == 4_000_000
    assert get_product.peek(7) is None


def test_bad_ttl_is_refused(side: Any) -> None:
    """The message shows the forms."""
    with pytest.raises(ConfigError, match="'90s'"):
        side.set("k", 1, "90 sec")


def test_clock_set_back_does_not_lengthen_a_life(side: Any, cache: Cache, clock: FakeClock) -> None:
    """An entry from the future cannot be judged."""
    clock.advance_wall(3600)
    side.set("k", 1, 60)
    clock._wall -= 3600  # a step back, which FakeClock has no name for
    assert side.get("k") is None
