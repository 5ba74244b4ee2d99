"""A hit gives what the miss gave: nothing truncated, nothing another call's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from datakit import Cache, events
from datakit.errors import CodecError, ConfigError


@dataclass
class Animal:
    name: str


@dataclass
class Dog(Animal):
    age: int = 0


@pytest.fixture
def cache() -> Cache:
    return Cache()


def test_a_subclass_is_returned_whole_and_not_kept(cache: Cache) -> None:
    seen: list[events.Event] = []

    @cache.cached(ttl=60)
    def find() -> Animal:
        return Dog("rex", 3)

    unsubscribe = events.subscribe(seen.append)
    assert [find(), find()] == [Dog("rex", 3)] * 2
    unsubscribe()
    assert any(isinstance(event, events.CacheValueRejected) for event in seen)


def test_a_subclass_inside_a_list_is_not_truncated(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def find() -> list[Animal]:
        return [Animal("tom"), Dog("rex", 3)]

    assert find() == find() == [Animal("tom"), Dog("rex", 3)]


def test_a_dataclass_without_an_annotation_never_becomes_a_dict(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def find():  # type: ignore[no-untyped-def]
        return Animal("tom")

    assert find() == find() == Animal("tom")
    with pytest.raises(CodecError, match="annotate"):
        cache.set("tom", Animal("tom"), ttl=60)


def test_what_is_equal_is_kept(cache: Cache) -> None:
    runs = []

    @cache.cached(ttl=60)
    def figures() -> Sequence[float]:
        runs.append(1)
        return [1.0, 2.0, float("nan")]

    assert list(figures())[:2] == list(figures())[:2] == [1, 2]
    assert len(runs) == 1


def test_a_tuple_never_becomes_a_list(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def figures() -> Sequence[float]:
        return (1.0, 2.0)

    assert figures() == figures() == (1.0, 2.0)
    assert cache.stats().loads == 2


def test_an_int_may_become_the_equal_float(cache: Cache) -> None:
    """As for type checkers; not one that no float is equal to, and no bool."""

    @cache.cached(ttl=60)
    def figures(n: int) -> list[float]:
        return [n, 0.5]

    assert figures(1) == figures(1) == [1.0, 0.5]
    assert cache.stats().loads == 1
    for odd in (2**53 + 1, True):
        assert [figures(odd), figures(odd)] == [[odd, 0.5]] * 2
    assert cache.stats().loads == 5


def test_a_value_that_would_change_is_told_with_its_place_and_not_shown(cache: Cache) -> None:
    seen: list[Any] = []

    @cache.cached(ttl=60)
    def find() -> dict[str, list[Animal]]:
        return {"secret": [Animal("tom"), Dog("canary", 3)]}

    unsubscribe = events.subscribe(seen.append)
    find()
    unsubscribe()
    (reason,) = [event.reason for event in seen if isinstance(event, events.CacheValueRejected)]
    assert "(value[...][1]: Dog becomes Animal)" in reason
    assert "canary" not in reason
    assert "secret" not in reason


def test_what_somebody_set_is_no_result_of_another_type(cache: Cache) -> None:
    """Under a key that others spell too; `explain` says so."""

    @cache.cached(ttl=60, key="limit:{name}")
    def limit(name: str) -> int:
        return 5

    cache.set("limit:a", "not a number", 60)
    assert limit.peek("a") is None
    assert cache.explain(limit, "a").verdict == "miss"
    assert limit("a") == limit("a") == 5
    assert cache.stats().hits == 1
    cache.set("limit:a", 6, 60)
    assert limit("a") == 6


def test_arguments_of_a_template_do_not_run_into_each_other(cache: Cache) -> None:
    @cache.cached(ttl=60, key="pair:{a}:{b}")
    def pair(a: str, b: str) -> str:
        return f"{a}|{b}"

    assert pair("x:y", "z") == "x:y|z"
    assert pair("x", "y:z") == "x|y:z"
    assert pair("x%3Ay", "z") == "x%3Ay|z"
    assert pair.key("x", "y") == "pair:x:y"


def test_a_template_with_one_argument_is_the_same_for_other_programs(cache: Cache) -> None:
    @cache.cached(ttl=60, key="product:{sku}")
    def product(sku: str) -> str:
        return sku

    assert product.key("a:b%") == "product:a:b%"


def test_a_template_without_a_separator_is_refused(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="separator"):

        @cache.cached(ttl=60, key="p{a}{b}")
        def pair(a: str, b: str) -> str:
            return a + b


@dataclass
class Moody:
    """One that is not made a second time, or cannot be compared."""

    fault: str
    made = 0

    def __post_init__(self) -> None:
        Moody.made += 1
        if self.fault == "made" and Moody.made > 1:
            raise RuntimeError(self.fault)

    def __eq__(self, other: object) -> bool:
        raise LookupError(self.fault)


@pytest.mark.parametrize("fault", ["made", "compared"])
def test_a_class_with_errors_of_its_own_is_returned(cache: Cache, fault: str) -> None:
    """What goes wrong while its stored form is looked at is no error of the function."""
    Moody.made = 0

    @cache.cached(ttl=60)
    def find() -> Moody:
        return moody

    moody = Moody(fault)
    assert find() is moody


def test_a_def_that_returns_a_coroutine_is_refused(cache: Cache) -> None:
    """It is awaited once at most; the message says what to do."""

    async def load(n: int = 0) -> int:
        return n

    @cache.cached(ttl=60)
    def find(n: int) -> Any:
        return load(n)

    with pytest.raises(ConfigError, match="async def"):
        assert find(7)
    with pytest.raises(ConfigError, match="async def"):
        cache.get_or_load("k", cast("Any", load), ttl=60)
