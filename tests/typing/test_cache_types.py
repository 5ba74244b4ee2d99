"""What a type checker sees of a cached function. Run by mypy and pyright, not by pytest."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar, assert_type

from datakit.cache import Cache, CacheStats, Explanation, cached, cached_many

cache = Cache()
MYPY = False  # which mypy takes for True


@cache.cached(ttl="1h")
def product(product_id: int, lang: str = "en") -> str | None:
    return lang * product_id


@cached(ttl=lambda result: 60 if result else 0, ignore=("lang",), version=2)
async def price(product_id: int, *, lang: str = "en") -> float:
    return product_id + len(lang)


class Shop:
    @cache.cached(ttl=None, ignore=("self",))
    def name(self, shop_id: int) -> str:
        return str(shop_id)

    @cache.cached(ttl=None, ignore=("self",))
    async def size(self, shop_id: int) -> int:
        return shop_id


class Catalogue:
    @classmethod
    @cache.cached(ttl=60, ignore=("cls",))
    def title(cls, n: int, lang: str = "en") -> str:
        return lang * n

    @classmethod
    @cache.cached(ttl=60, ignore=("cls",))
    async def weight(cls, n: int) -> float:
        return n

    @classmethod
    @cached(ttl=60, ignore=("cls", "lang"), key="label:{n}")
    def label(cls, n: int, lang: str = "en") -> str:
        return cls.title(n, lang)

    @classmethod
    @cache.cached(ttl=60, ignore=("cls",))
    def made(cls, n: int) -> Self:
        return cls()

    @staticmethod
    @cache.cached(ttl=60)
    def double(n: int) -> int:
        return 2 * n

    @staticmethod
    @cache.cached(ttl=60)
    async def half(n: int) -> float:
        return n / 2

    @staticmethod
    @cache.cached(ttl=60, key="anything:{n}")
    def anything(value: object, n: int) -> bytes:
        return repr((value, n)).encode()

    @classmethod
    @cache.cached_many(ttl="5m", by="ids", ignore=("cls",))
    def titles(cls, ids: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(ids, "")


class Quarterly(Catalogue):
    pass


class Series:
    @cache.cached(ttl=60, ignore=("cls",))
    @classmethod
    def title(cls, n: int, lang: str = "en") -> str:
        return lang * n

    @cached(ttl=60, ignore=("cls",))
    @classmethod
    async def weight(cls, n: int) -> float:
        return n

    @cache.cached_many(ttl="5m", by="ids", ignore=("cls",))
    @classmethod
    def titles(cls, ids: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(ids, "")


P = ParamSpec("P")
R = TypeVar("R")


@cache.cached(ttl=60, key="any:{n}")
def of_anything(value: Any, n: int) -> bytes:
    return repr((value, n)).encode()


@cache.cached(ttl=60, key="object:{n}")
def of_object(value: object, n: int) -> bytes:
    return repr((value, n)).encode()


@cache.cached(ttl=60, key="kind:{n}")
def of_class(kind: type[int], n: int) -> int:
    return kind(n)


@cache.cached(ttl=60)
def of_one(value: R, n: int) -> list[R]:
    return [value] * n


@cache.cached(ttl=60, key="callable")
def of_callable(fn: Callable[[], int]) -> int:
    return fn()


@cache.cached(ttl=60)
async def of_all(*args: Any, **kwargs: Any) -> int:
    return len(args) + len(kwargs)


def logged(fn: Callable[P, R]) -> Callable[P, R]:
    @wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    return wrapper


@logged
@cache.cached(ttl="1h", none_ttl="10s", cache_if=bool, refresh_ahead=0.8, stale_if_error="1d")
@logged
def stacked(n: int) -> str:
    return str(n)


@cache.cached_many(ttl="5m", by="ids")
def names(ids: Sequence[int], lang: str = "en") -> dict[int, str]:
    return dict.fromkeys(ids, lang)


@cached_many(ttl="5m", by="ids")
async def sizes(ids: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(ids, 1.0)


@cache.cached_many(ttl="5m", by="ids")
def listed(ids: list[int]) -> dict[int, str]:
    return dict.fromkeys(ids, "")


@cache.cached_many(ttl="5m", by="ids")
async def iterated(ids: Iterable[str], lang: str = "en") -> dict[str, str]:
    return dict.fromkeys(ids, lang)


@cache.cached_many(ttl="5m", by="ids")  # type: ignore[arg-type]  # pyright: ignore
def of_a_tuple(ids: tuple[int, ...]) -> dict[int, str]:
    return dict.fromkeys(ids, "")


class Warehouse:
    @cache.cached_many(ttl="5m", by="ids", ignore=("self",))
    def stock(self, ids: Sequence[int]) -> dict[int, bytes]:
        return dict.fromkeys(ids, b"")


async def batches() -> None:
    assert_type(names([1, 2]), dict[int, str])
    assert_type(names([1], lang="de"), dict[int, str])
    assert_type(names.peek([1]), dict[int, str])
    assert_type(names.refresh([1]), dict[int, str])
    assert_type(names.key(1), str)
    names.put({1: "x"})
    names.invalidate([1], "de")
    assert_type(await sizes(["a"]), dict[str, float])
    assert_type(await sizes.peek(["a"]), dict[str, float])
    await sizes.invalidate(["a"])
    assert_type(listed([1]), dict[int, str])
    assert_type(listed((1, 2)), dict[int, str])
    listed.invalidate([1])
    assert_type(await iterated(["a"], lang="de"), dict[str, str])
    listed(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await iterated([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert_type(Warehouse().stock([1]), dict[int, bytes])
    Warehouse().stock.invalidate([1])
    names(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    names.put({1: 2})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    names.invalidate(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await sizes([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def seen_from_outside() -> None:
    assert_type(stacked(7), str)
    stacked("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(cache.stats(), CacheStats)
    assert_type(cache.explain(product, 7), Explanation)
    cache.explain(product, "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def sync_function() -> None:
    assert_type(product(7), str | None)
    assert_type(product(7, lang="de"), str | None)
    assert_type(product.peek(7), str | None)
    assert_type(product.refresh(7, "de"), str | None)
    assert_type(product.key(7), str)
    product.invalidate(7)
    product.put("x", 7, lang="de")
    product.__wrapped__(7, "de")
    product("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    product.invalidate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    product.put(5, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    product.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_function() -> None:
    assert_type(await price(7), float)
    assert_type(await price.peek(7, lang="de"), float | None)
    assert_type(await price.refresh(7), float)
    assert_type(price.key(7), str)
    await price.invalidate(7)
    await price.put(1.5, 7)
    await price("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def methods() -> None:
    shop = Shop()
    assert_type(shop.name(7), str)
    assert_type(shop.name.peek(7), str | None)
    assert_type(await shop.size(7), int)
    await shop.size.invalidate(7)
    shop.name("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def class_methods() -> None:
    assert_type(Catalogue.title(7), str)
    assert_type(Catalogue().title(7, lang="de"), str)
    assert_type(Quarterly.title(n=7), str)
    assert_type(Catalogue.label(7, lang="de"), str)
    assert_type(Catalogue.title.peek(7), str | None)
    assert_type(Catalogue.title.refresh(7), str)
    assert_type(Catalogue.title.key(7), str)
    assert_type(Catalogue.title.__wrapped__(7), str)
    Catalogue.title.put("x", 7)
    Catalogue.title.invalidate(7, "de")
    assert_type(await Catalogue.weight(7), float)
    assert_type(await Quarterly().weight(n=7), float)
    assert_type(await Catalogue.weight.peek(7), float | None)
    assert_type(await Catalogue.weight.refresh(7), float)
    assert_type(Catalogue.weight.key(7), str)
    assert_type(await Catalogue.weight.__wrapped__(7), float)
    await Catalogue.weight.put(1.5, 7)
    await Catalogue.weight.invalidate(7)
    assert_type(Catalogue.titles([7]), dict[int, str])
    Catalogue.titles.invalidate([7])
    Catalogue.title("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Catalogue.title.invalidate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Catalogue.title(7, 8, 9)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    Catalogue.title.put(5, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Catalogue.weight("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def cached_above_classmethod() -> None:
    assert_type(Series.title(7), str)
    assert_type(Series().title(7, lang="de"), str)
    assert_type(Series.title.peek(7), str | None)
    Series.title.invalidate(7, "de")
    Series.title.put("x", 7)
    assert_type(await Series.weight(7), float)
    assert_type(await Series.weight.peek(7), float | None)
    assert_type(Series.titles([7]), dict[int, str])
    Series.titles.invalidate([7])
    Series.title("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Series.title.invalidate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Series.titles(["7"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await Series.weight("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def static_methods() -> None:
    assert_type(Catalogue.double(7), int)
    assert_type(Catalogue.double.peek(7), int | None)
    Catalogue.double("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(Catalogue.anything("x", 7), bytes)
    assert_type(Catalogue.anything.peek("x", 7), bytes | None)
    assert_type(await Catalogue.half(7), float)
    assert_type(await Catalogue.half.peek(7), float | None)
    Catalogue.anything.put(5, "x", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def functions_whose_first_argument_may_be_a_class() -> None:
    assert_type(of_anything("x", 7), bytes)
    assert_type(of_anything(value="x", n=7), bytes)
    of_anything.put(b"", value="x", n=7)
    of_anything.invalidate("x", "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(of_object(value=1, n=7), bytes)
    assert_type(of_object.peek(int, 7), bytes | None)
    of_object(value=1, n="7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    of_object(7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(of_class(bool, 7), int)
    of_class(str, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(of_one("x", 7), list[str])
    of_one("x", "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(of_callable(lambda: 7), int)
    of_callable("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    of_callable.invalidate(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await of_all(1, "x", n=2), int)
    assert_type(await of_all.peek(), int | None)


def what_is_not_there_yet() -> None:
    Cache(l1=cache)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cached(ttl=60, tags=["a"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def options_of_any_type(ignored: Any, **options: Any) -> None:
    @cache.cached(ttl=60, ignore=ignored)
    def one(n: int) -> int:
        return n

    @cached(ttl=60, **options)
    async def other(n: int) -> int:
        return n

    assert_type(one(7), int)
    assert_type(one.peek(7), int | None)
    assert_type(await other.peek(7), int | None)


async def what_pyright_knows_better() -> None:
    if not MYPY:
        assert_type(Quarterly.made(7), Quarterly)
        assert_type(Quarterly.made.peek(7), Quarterly | None)
        assert_type(Catalogue().double(7), int)
        assert_type(Catalogue().double.peek(7), int | None)
        assert_type(await Catalogue().half(7), float)


async def plain_operations() -> None:
    def load() -> list[int]:
        return []

    async def aload() -> list[int]:
        return []

    assert_type(cache.get_or_load("k", load, ttl=60), list[int])
    assert_type(await cache.aio.get_or_load("k", aload, ttl="5m"), list[int])


as_callable: Callable[[int], str | None] = product
as_coroutine: Callable[[int], Coroutine[Any, Any, float]] = price
