"""A cached function is still a function: wrapped, bound, injected, pickled."""

import asyncio
import gc
import inspect
import pickle
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

import fastapi
import pytest
from fastapi.testclient import TestClient

from datakit.cache import Cache, decorator
from datakit.errors import CacheKeyError, ConfigError

P = ParamSpec("P")
R = TypeVar("R")

cache = Cache()


@cache.cached(ttl=60)
def square(n: int) -> int:
    return n * n


@cache.cached(ttl=60)
async def asquare(n: int) -> int:
    return n * n


def noted(fn: Callable[P, R]) -> Callable[P, R]:
    """Attach something to a function, as frameworks do."""
    vars(fn)["note"] = "of the user's"
    return fn


class Shop:
    """Whose methods are cached."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @cache.cached(ttl=60)
    @noted
    def offer(self, n: int) -> str:
        """The docstring of offer."""
        return f"{self.name} {n}"

    @cache.cached(ttl=60)
    @noted
    async def stock(self, n: int) -> int:
        """The docstring of stock."""
        return n

    @cache.cached(ttl=60, ignore=("cls",))
    @classmethod
    def kind(cls, n: int) -> str:
        return f"{cls.__name__} {n}"

    @cache.cached_many(ttl=60, by="ids")
    @noted
    def offers(self, ids: Sequence[int]) -> dict[int, str]:
        """The docstring of offers."""
        return {n: f"{self.name} {n}" for n in ids}

    @cache.cached_many(ttl=60, by="ids")
    @noted
    async def kinds(self, ids: Sequence[int]) -> dict[int, str]:
        """The docstring of kinds."""
        return {n: f"kind {n}" for n in ids}

    @cache.cached(ttl=60, key="area:{cls.__name__}:{n}")
    @classmethod
    async def area(cls, n: int) -> str:
        """The docstring of area."""
        return f"{cls.__name__} {n}"

    @cache.cached_many(ttl=60, by="ids", ignore=("cls",))
    @classmethod
    def labels(cls, ids: Sequence[int]) -> dict[int, str]:
        return {n: f"{cls.__name__} {n}" for n in ids}

    @staticmethod
    @cache.cached(ttl=60)
    def twice(n: int) -> int:
        return 2 * n


class Market(Shop):
    """Another one."""

    __cache_key__ = Shop.__cache_key__  # a class body does not know its bases yet

    @cache.cached(ttl=60)
    def offer(self, n: int) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"market {n}"


def test_pickled_by_name() -> None:
    """Other processes find the very function."""
    assert pickle.loads(pickle.dumps(square)) is square
    assert pickle.loads(pickle.dumps(asquare)) is asquare
    assert pickle.loads(pickle.dumps(Shop("a").offer))(7) == "a 7"
    assert pickle.loads(pickle.dumps(Shop("a").offers))([7]) == {7: "a 7"}
    assert asyncio.run(pickle.loads(pickle.dumps(Shop("a").kinds))([7])) == {7: "kind 7"}


def test_methods() -> None:
    """Bound to their object; the helpers, too."""
    shop = Shop("tea")
    assert shop.offer(7) == "tea 7"
    assert shop.offer.peek(7) == "tea 7"
    shop.offer.invalidate(7)
    assert shop.offer.peek(7) is None
    shop.offer.put("put", 7)
    assert shop.offer(7) == "put"
    assert shop.offer.__wrapped__(7) == "tea 7"
    assert Shop.offer(shop, 7) == "put"


METHODS = ["offer", "stock", "offers", "kinds"]


@pytest.mark.parametrize("name", METHODS)
def test_a_bound_method_looks_like_its_function(name: str) -> None:
    """To whatever describes it: FastAPI, help, loggers."""
    function, bound = getattr(Shop, name), getattr(Shop("x"), name)
    assert bound.__name__ == function.__name__ == name
    assert bound.__qualname__ == function.__qualname__ == f"Shop.{name}"
    assert bound.__module__ == function.__module__ == __name__
    assert bound.__doc__ == function.__doc__ == f"The docstring of {name}."
    assert get_type_hints(bound) == get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)
    assert ["self", *inspect.signature(bound).parameters] == parameters
    assert inspect.iscoroutinefunction(bound.__call__) == (name in ("stock", "kinds"))
    assert bound.note == "of the user's"
    with pytest.raises(AttributeError, match="misspelt"):
        _ = bound.misspelt


@pytest.mark.parametrize("name", METHODS)
def test_bound_methods_are_equal_as_those_of_python_are(name: str) -> None:
    """Of one object (not of an equal one) and one function."""

    class Equal(Shop):
        __cache_key__ = Shop.__cache_key__
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return True

    shop, other = Equal("x"), Equal("x")
    assert getattr(shop, name) == getattr(shop, name)
    assert hash(getattr(shop, name)) == hash(getattr(shop, name))
    assert getattr(shop, name) != getattr(other, name)
    assert getattr(shop, name) not in (getattr(shop, n) for n in METHODS if n != name)
    assert getattr(shop, name) != getattr(Shop, name)


def test_reprs_name_the_function() -> None:
    """And show no object, which may hold what nobody should see."""
    name = f"{__name__}.Shop"
    assert repr(square) == f"<cached {__name__}.square>"
    assert repr(asquare) == f"<cached {__name__}.asquare>"
    assert repr(Shop.offers) == f"<cached_many {name}.offers>"
    shop = Shop("canary")
    assert repr(shop.offer) == f"<bound <cached {name}.offer>>"
    assert repr(shop.stock) == f"<bound <cached {name}.stock>>"
    assert repr(shop.offers) == f"<bound <cached_many {name}.offers>>"
    assert repr(shop.kinds) == f"<bound <cached_many {name}.kinds>>"

    @cache.cached_many(ttl=60, by="ids")
    def loose(ids: Sequence[int]) -> dict[int, str]:
        return {}

    @cache.cached_many(ttl=60, by="ids")
    async def aloose(ids: Sequence[int]) -> dict[int, str]:
        return {}

    assert repr(loose).startswith(f"<cached_many {__name__}.")
    assert repr(aloose).startswith(f"<cached_many {__name__}.")


def test_fastapi_publishes_a_cached_method_by_its_name() -> None:
    """With its docstring, not with ours."""
    app = fastapi.FastAPI()
    shop = Shop("x")
    app.get("/offer")(shop.offer)
    app.get("/stock")(shop.stock)
    paths = app.openapi()["paths"]
    for name in ("offer", "stock"):
        told = paths[f"/{name}"]["get"]
        assert told["operationId"] == f"{name}_{name}_get"
        assert told["description"] == f"The docstring of {name}."
    with TestClient(app) as client:
        assert client.get("/offer?n=7").json() == "x 7"
        assert client.get("/stock?n=7").json() == 7


def test_two_classes_do_not_share_a_key() -> None:
    """Of one method name and equal objects."""
    shop, market = Shop("x"), Market("x")
    assert shop.offer.key(7) != market.offer.key(7)
    assert (shop.offer(8), market.offer(8)) == ("x 8", "market 8")


def test_an_object_with_a_reused_id_gets_no_values_of_another() -> None:
    """No key is made of an address."""

    class Nameless:
        pass

    with pytest.raises(CacheKeyError, match="ignore="):

        class Holder:
            @cache.cached(ttl=60)
            def method(self, n: int) -> int:
                return n

    @cache.cached(ttl=60)
    def of(thing: Any) -> str:
        return str(id(thing))

    with pytest.raises(CacheKeyError, match="__cache_key__"):
        of(Nameless())
    seen: set[int] = set()
    for name in map(str, range(50)):
        shop = Shop(name)
        seen.add(id(shop))
        assert shop.offer(1) == f"{name} 1"
        del shop
        gc.collect()
    assert len(seen) < 50, "ids were reused, or this test shows nothing"


def test_class_and_static_methods() -> None:
    """Called on the class and on an object."""
    assert Shop.kind(7) == Shop().kind(7) == "Shop 7"
    Shop.kind.invalidate(7)
    assert Shop.kind.peek(7) is None
    assert Shop.labels([7]) == Shop().labels([7]) == {7: "Shop 7"}
    Shop.labels.invalidate([7])
    assert Shop.labels.peek([7]) == {}
    shop: Any = Shop()  # mypy knows a static method on its class alone
    assert Shop.twice(7) == shop.twice(7) == 14
    assert Shop.twice.peek(7) == 14


def test_class_method_knows_the_class_that_it_is_called_on() -> None:
    """In its helpers, too: nothing is shared with a subclass that the key does not name."""
    for shop in (Shop, Market):
        area: Any = shop.area
        of_object: Any = shop().area
        name = shop.__name__
        assert asyncio.run(area(7)) == asyncio.run(area.refresh(7)) == f"{name} 7"
        assert asyncio.run(of_object(7)) == f"{name} 7"
        assert area.key(7) == f"area:{name}:7"
        assert asyncio.run(pickle.loads(pickle.dumps(area))(7)) == f"{name} 7"
        assert (area.__name__, area.__doc__) == ("area", "The docstring of area.")
        assert area == shop.area
    assert Shop.area != Market.area
    Shop.kind.put("put", 7)
    assert Market.kind(7) == "put", "as ignore says"
    Shop.kind.invalidate(7)


def test_classmethod_above_cached() -> None:
    """Works where `classmethod` lets the helpers know the class; elsewhere it is refused."""

    def declare() -> Any:
        class Old:
            @classmethod
            @cache.cached(ttl=60, ignore=("cls",))
            def kind(cls, n: int = 0) -> str:
                return f"{cls.__name__} {n}"

            @classmethod
            @cache.cached_many(ttl=60, by="ids", ignore=("cls",))
            def labels(cls, ids: Sequence[int]) -> dict[int, str]:
                return {n: f"{cls.__name__} {n}" for n in ids}

        return Old

    if not decorator.CLASSMETHOD_CHAINS:
        with pytest.raises(ConfigError, match="put @cached above @classmethod"):
            declare()
        return
    old = declare()
    assert old.kind(7) == old().kind.peek(7) == old.kind.refresh(7) == "Old 7"
    old.kind.invalidate(7)
    assert old.kind.peek(7) is None
    assert old.labels([7]) == old.labels.peek([7]) == {7: "Old 7"}


def test_classmethod_above_cached_is_refused_from_python_3_13_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An invalidate that takes its first argument for the class would be of another key."""
    monkeypatch.setattr(decorator, "CLASSMETHOD_CHAINS", False)
    with pytest.raises(ConfigError, match="put @cached above @classmethod"):

        class Old:
            @classmethod
            @cache.cached(ttl=60, ignore=("cls",))
            @logged
            def kind(cls, n: int = 0) -> str:
                return f"{cls.__name__} {n}"

    class New:
        @cache.cached(ttl=60, ignore=("cls",))
        @classmethod
        def kind(cls, n: int = 0) -> str:
            return f"{cls.__name__} {n}"

    assert New.kind(7) == New.kind.peek(7) == "New 7"


@pytest.mark.parametrize("shop", [Shop, Market])
def test_a_method_is_called_through_its_class(shop: Any) -> None:
    """With its object as the first argument, as any method is."""
    assert shop.offer(shop("x"), 7) == shop("x").offer(7)
    assert shop.offers(shop("x"), [7]) == {7: "x 7"}
    assert asyncio.run(shop.kinds(shop("x"), [7])) == {7: "kind 7"}


def test_a_function_of_many_gets_a_list() -> None:
    """Whatever sequence its caller gave; types promise that it may be annotated so."""
    given: list[object] = []

    @cache.cached_many(ttl=60, by="ids")
    def names(ids: list[int]) -> dict[int, str]:
        given.append(ids)
        return {n: str(n) for n in ids}

    assert names((1, 2)) == {1: "1", 2: "2"}
    assert names(range(1, 4)) == {1: "1", 2: "2", 3: "3"}
    assert names.refresh((4,)) == {4: "4"}
    assert given == [[1, 2], [3], [4]]


def logged(fn: Callable[P, R]) -> Callable[P, R]:
    @wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    return wrapper


def test_stacks_of_decorators() -> None:
    """Above and below, sync and async: the signature and the type of the result are seen."""
    calls: list[int] = []

    @logged
    @cache.cached(ttl=60)
    @logged
    def cube(n: int, *, times: int = 1) -> tuple[int, ...]:
        calls.append(n)
        return (n**3,) * times

    assert cube(2, times=2) == cube(2, times=2) == (8, 8)
    assert calls == [2]
    assert str(inspect.signature(cube)) == "(n: int, *, times: int = 1) -> tuple[int, ...]"

    @cache.cached(ttl=60)
    @logged
    async def acube(n: int) -> int:
        calls.append(n)
        return n**3

    async def twice() -> tuple[int, int]:
        return await acube(3), await acube(3)

    assert asyncio.run(twice()) == (27, 27)
    assert calls == [2, 3]


def test_fastapi_injects_it() -> None:
    """As a dependency and as a handler."""
    app = fastapi.FastAPI()
    runs: list[int] = []

    @cache.cached(ttl=60)
    def tenant(tenant_id: int) -> str:
        runs.append(tenant_id)
        return f"tenant {tenant_id}"

    @cache.cached(ttl=60)
    async def region(tenant_id: int) -> str:
        runs.append(-tenant_id)
        return "eu"

    @app.get("/")
    async def index(
        who: Annotated[str, fastapi.Depends(tenant)], where: Annotated[str, fastapi.Depends(region)]
    ) -> list[str]:
        return [who, where]

    with TestClient(app) as client:
        for _ in range(2):
            assert client.get("/?tenant_id=7").json() == ["tenant 7", "eu"]
    assert sorted(runs) == [-7, 7]


def test_a_function_that_calls_itself() -> None:
    """Also with its own arguments: it does not wait for itself."""
    own = Cache()
    depth: list[int] = []

    @own.cached(ttl=60)
    def factorial(n: int) -> int:
        if len(depth) < 3:
            depth.append(n)
            return factorial(n)
        return n * factorial(n - 1) if n else 1

    assert factorial(5) == 120
    assert factorial(5) == 120

    @own.cached(ttl=60)
    async def afactorial(n: int) -> int:
        return n * await afactorial(n - 1) if n else 1

    assert asyncio.run(afactorial(5)) == 120


def test_an_argument_seen_before_may_be_of_another_type() -> None:
    """Keys are remembered by the argument: 1, True, 1.0 and "1" are equal or alike, and differ."""

    @cache.cached(ttl=60)
    def type_of(value: object) -> str:
        return type(value).__name__

    for _ in range(2):
        for value in (1, True, 1.0, "1", 0, False, -0.0, ""):
            assert type_of(value) == type(value).__name__


def test_remembered_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is what they hold."""
    monkeypatch.setattr("datakit.cache.signature.MAX_NAMES", 10)

    @cache.cached(ttl=60)
    def length(text: str) -> int:
        return len(text)

    for n in range(100):
        assert length(str(n)) == len(str(n))
    names = length._plan.builder.names  # type: ignore[union-attr]
    assert len(names) <= 10
    length("x" * 1000)
    assert "x" * 1000 not in names


def test_stop_iteration_of_a_function_stays_one() -> None:
    """Though the steps of a load are a generator."""

    @cache.cached(ttl=60)
    def first(n: int) -> int:
        return next(iter(()))

    with pytest.raises(StopIteration):
        first(1)
    with pytest.raises(StopIteration):
        first.refresh(1)

    @cache.cached_many(ttl=60, by="ids")
    def firsts(ids: Sequence[int]) -> dict[int, int]:
        return next(iter(()))

    with pytest.raises(StopIteration) as raised:
        firsts([1])
    assert raised.value.__context__ is None
