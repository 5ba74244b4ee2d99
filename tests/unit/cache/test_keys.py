"""Keys differ whenever the arguments differ."""

import dataclasses
import enum
import math
from collections import namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache import Cache, keys
from datakit.errors import CacheKeyError, ConfigError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.datetimes(timezones=st.just(UTC) | st.none()),
    st.dates(),
    st.timedeltas(),
)
SCALAR = st.deferred(lambda: SCALARS)
HASHABLE = SCALAR | st.tuples(SCALAR, SCALAR) | st.frozensets(SCALAR, max_size=3)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=8,
)


def canonical(value: Any) -> Any:
    """Return something that compares equal only for values of equal types and contents."""
    kind = type(value).__name__
    if isinstance(value, float | Decimal):
        return (kind, str(value))
    if isinstance(value, list | tuple):
        return (kind, tuple(map(canonical, value)))
    if isinstance(value, set | frozenset):
        return (kind, frozenset(map(canonical, value)))
    if isinstance(value, dict):
        return (kind, frozenset((canonical(k), canonical(v)) for k, v in value.items()))
    if isinstance(value, datetime):
        return (kind, value, value.fold)
    return (kind, value)


@given(VALUES, VALUES)
def test_tokens_are_equal_only_for_the_same(left: Any, right: Any) -> None:
    """Injective over types and contents, and stable."""
    same = canonical(left) == canonical(right)
    assert (keys.token(left) == keys.token(right)) is same


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_tokens_of_sequences_never_run_together(left: list[Any], right: list[Any]) -> None:
    """Where one item ends is told by the item."""
    same = canonical(left) == canonical(right)
    joined = [",".join(map(keys.token, values)) for values in (left, right)]
    assert (joined[0] == joined[1]) is same


@given(st.text(max_size=300), st.text(max_size=300))
def test_fitted_keys_stay_apart(left: str, right: str) -> None:
    """A key of any store: printable ASCII, short, and different for different texts."""
    assert (keys.fit(left) == keys.fit(right)) is (left == right)
    fitted = keys.fit(left)
    assert len(fitted.encode()) <= keys.MAX_LENGTH
    assert all("!" <= character <= "~" for character in fitted)


def test_hashed_key_cannot_be_spelled() -> None:
    """A text that looks like another's hashed form is hashed itself."""
    hashed = keys.fit("x" * 500)
    assert keys.fit(hashed) != hashed


Point = namedtuple("Point", "x y")
Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Money:
    amount: Decimal
    currency: str


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Size(enum.IntEnum):
    SMALL = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Account:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number


class Secretive:
    @property
    def secret(self) -> str:
        raise ValueError("canary")


DISTINCT: list[Any] = [
    1, True, 1.0, "1", b"1", None, "", 0, False, 0.0, -0.0, math.nan, math.inf, 10**30, -(10**30),
    ("x y", "z"), ("x", "y z"), ["x", "y z"], (1, (2, 3)), ((1, 2), 3), (), [], {}, set(),
    frozenset(), {1: 2}, {2: 1}, {1, 2}, frozenset({1, 2}), [1, 2],
    Decimal(1), Decimal("1.0"), UUID(int=1), Colour.RED, Colour.BLUE, Size.SMALL,
    Flags.A, Flags.A | Flags.B,
    Money(Decimal(1), "EUR"), Money(Decimal(1), "USD"), Point(1, 2), Pair(1, 2), Account(1),
    Account(2),
    date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    time(1), timedelta(1), "i1", "T", "s1.1",
]  # fmt: skip


def test_everything_has_its_own_token() -> None:
    """1, True, 1.0 and "1" and their like."""
    tokens = [keys.token(value) for value in DISTINCT]
    assert len(set(tokens)) == len(tokens)


def test_order_of_a_dict_or_set_does_not_count() -> None:
    """Equal ones have one key."""
    assert keys.token({1: 2, 3: 4}) == keys.token({3: 4, 1: 2})
    assert keys.token({"a", "b", "c"}) == keys.token({"c", "b", "a"})


def key_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    key: str = Cache(namespace="shop").cached(ttl=60)(function).key(*args, **kwargs)
    return key


def get_product(product_id: int, lang: str = "en", *, deep: bool = False) -> None: ...


def test_key_is_readable() -> None:
    """Namespace, function, arguments."""
    name = f"{__name__}.get_product"
    assert key_of(get_product, 7) == f"shop:{name}:product_id=i7,lang=s2.en,deep=F"


def test_defaults_and_keywords_do_not_matter() -> None:
    """However a call is spelled, its key is the same."""
    spelled = {
        key_of(get_product, 7),
        key_of(get_product, product_id=7),
        key_of(get_product, 7, "en"),
        key_of(get_product, lang="en", product_id=7, deep=False),
    }
    assert len(spelled) == 1


def one(x: object) -> None: ...
def rest(*args: object, **kwargs: object) -> None: ...
def only(x: int, /, *, y: int = 1) -> None: ...


@given(VALUES, VALUES)
def test_keys_of_calls_differ_like_arguments(left: Any, right: Any) -> None:
    """The fast path for small ints tells apart what the general one does."""
    same = canonical(left) == canonical(right)
    assert (key_of(one, left) == key_of(one, right)) is same


def test_star_arguments() -> None:
    """They are part of the key, by position and by name."""
    calls = [key_of(rest, 1, 2), key_of(rest, (1, 2)), key_of(rest, 1, b=2), key_of(rest, a=1, b=2)]
    assert len(set(calls)) == 4
    assert key_of(rest, a=1, b=2) == key_of(rest, b=2, a=1)
    assert key_of(only, 1) == key_of(only, 1, y=1) != key_of(only, 1, y=2)


def test_wrong_arguments_are_a_type_error() -> None:
    """As a plain call would be."""
    for args in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            key_of(get_product, *args)


def test_version_changes_the_key() -> None:
    """And must be plain text."""
    decorate = Cache().cached
    found = {decorate(ttl=1, version=v)(one).key(1) for v in (None, 1, 2)}
    assert len(found) == 3
    with pytest.raises(ConfigError, match="version="):
        decorate(ttl=1, version="a:b")(one)


def test_argument_without_a_key_is_named() -> None:
    """The message says which, and the three ways out; it does not show the value."""
    with pytest.raises(CacheKeyError) as caught:
        key_of(one, [object()])
    text = str(caught.value)
    for word in ("'x'", "ignore=", "key=", "__cache_key__"):
        assert word in text
    assert "0x" not in text


def test_argument_that_holds_itself() -> None:
    """No recursion error comes out."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CacheKeyError, match="holds itself"):
        key_of(one, loop)


def test_ignored_argument_is_left_out() -> None:
    """It may be anything then."""

    def get(session: object, product_id: int) -> None: ...

    cached = Cache().cached(ttl=1, ignore=("session",))(get)
    assert cached.key(object(), 7) == cached.key(object(), 7) != cached.key(object(), 8)


@pytest.mark.parametrize("ignore", [("sesion",), "x"])
def test_mistaken_ignore_is_refused(ignore: Any) -> None:
    """A misspelt name, or a text in place of a tuple."""
    with pytest.raises(ConfigError, match="ignore="):
        Cache().cached(ttl=1, ignore=ignore)(one)


def test_template() -> None:
    """A key that other programs know, below the namespace."""
    decorate = Cache(namespace="shop").cached
    by_template = decorate(ttl=1, key="product:{product_id}:{lang}")(get_product)
    assert by_template.key(7) == "shop:product:7:en"
    account = decorate(ttl=1, key="account:{x.number}")(one)
    assert account.key(Account(5)) == "shop:account:5"
    with pytest.raises(CacheKeyError, match="no stable text"):
        decorate(ttl=1, key="account:{x}")(one).key(Account(5))


@pytest.mark.parametrize(
    ("template", "argument"),
    [("p:{x.number}", None), ("p:{x[0]}", 5), ("p:{x[9]}", [1]), ("p:{x[a]}", {"b": 1}),
     ("p:{x.secret}", Secretive()), ("p:{x:d}", "canary"), ("p:{x:.2f}", "canary"),
     ("p:{x:s}", None)],
)  # fmt: skip
def test_template_that_does_not_fit_the_call(template: str, argument: Any) -> None:
    """Is named with its function and the argument, not with what that holds."""
    keyed = Cache().cached(ttl=1, key=template)(one)
    with pytest.raises(CacheKeyError, match=r"test_keys\.one: key=.*x") as caught:
        keyed.key(argument)
    assert template in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("template", ["p:{nothing}", "p:{", "p:{0}", "p:{x!q}"])
def test_mistaken_template_is_refused(template: str) -> None:
    """At decoration."""
    with pytest.raises(ConfigError, match="key="):
        Cache().cached(ttl=1, key=template)(one)


def test_method_without_a_key_is_refused_at_decoration() -> None:
    """Objects are never guessed to be alike."""
    with pytest.raises(CacheKeyError, match="ignore="):

        class Repository:
            @Cache().cached(ttl=1)
            def get(self, product_id: int) -> int:
                return product_id


def test_methods() -> None:
    """Bound, with the helpers: self ignored, in the template, or with a key of its own."""
    cache = Cache()

    class Repository:
        def __init__(self, shop: int) -> None:
            self.shop = shop

        def __cache_key__(self) -> int:
            return self.shop

        @cache.cached(ttl=60)
        def keyed(self, product_id: int) -> int:
            return self.shop * 100 + product_id

        @cache.cached(ttl=60, ignore=("self",))
        def ignoring(self, product_id: int) -> int:
            return self.shop * 100 + product_id

        @cache.cached(ttl=60, key="{self.shop}/{product_id}")
        def spelled(self, product_id: int) -> int:
            return self.shop * 100 + product_id

    first, second = Repository(1), Repository(2)
    assert (first.keyed(7), second.keyed(7)) == (107, 207)
    assert (first.ignoring(7), second.ignoring(7)) == (107, 107)
    assert (first.spelled(7), second.spelled.key(7)) == (107, "2/7")
    first.keyed.put(5, 7)
    assert (first.keyed.peek(7), second.keyed.peek(7)) == (5, 207)
    first.keyed.invalidate(7)
    assert first.keyed.peek(7) is None
    assert (first.keyed.refresh(7), first.keyed.__wrapped__(8)) == (107, 108)
    assert Repository.keyed.key(first, 7) == first.keyed.key(7)
