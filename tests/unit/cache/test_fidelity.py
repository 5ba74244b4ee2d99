"""What is told apart from what comes back."""

import enum
import functools
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache.fidelity import change, is_same

NAN = float("nan")
ROME = ZoneInfo("Europe/Rome")
WINTER, SUMMER = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))


@dataclass
class Point:
    x: Any
    note: Any = field(default=None, compare=False)

    @functools.cached_property
    def doubled(self) -> Any:
        return self.x * 2


class Sub(Point):
    pass


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any


class Bare:
    """One that is equal to itself alone."""

    def __init__(self, x: Any) -> None:
        self.x = x


class Named(str):
    """Text that knows more."""

    origin: str

    def __new__(cls, text: str, origin: str) -> "Named":
        named = super().__new__(cls, text)
        named.origin = origin
        return named


class Id(int):
    """Equal to its fellows, whatever they are."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Struct(msgspec.Struct):
    x: Any


class OpenStruct(msgspec.Struct, dict=True):
    x: Any


class Pair(NamedTuple):
    a: Any
    b: Any


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Model(pydantic.BaseModel):
    x: Any
    y: int = 1
    _hidden: int = pydantic.PrivateAttr(default=0)


def hiding(number: int) -> Model:
    model = Model(x=1)
    model._hidden = number
    return model


def noted(point: Any) -> Any:
    point.more = 1
    return point


def doubled(point: Point) -> Point:
    assert point.doubled == 2 * point.x
    return point


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NAN, float("nan")),
        ([1.0, NAN, "a"], [1.0, float("nan"), "a"]),
        ([1, 2.5, "a"], [1.0, 2.5, "a"]),  # where a float is declared
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ({(1, "a"): 2}, {(1, "a"): 2}),
        ({"ab", "cd", 3}, {3, "cd", "ab"}),
        (frozenset({-1, -2}), frozenset({-2, -1})),
        (Point([1], NAN), Point([1], float("nan"))),
        (doubled(Point(1)), Point(1)),
        (Slotted(1), Slotted(1)),
        (Bare([1]), Bare([1])),
        (Struct({"a": 1}), Struct({"a": 1})),
        (noted(OpenStruct(1)), noted(OpenStruct(1))),
        (Pair(1, "x"), Pair(1, "x")),
        (Level.LOW, Level.LOW),
        (Named("a", "b"), Named("a", "b")),
        (Model(x=1), Model(x=1, y=1)),
        (pydantic.SecretStr("a"), pydantic.SecretStr("a")),
        (PurePosixPath("/a"), PurePosixPath("/a")),
        ([Decimal("1.10"), UUID(int=1), b"a"], [Decimal("1.10"), UUID(int=1), b"a"]),
        ([date(2026, 1, 1), timedelta(1)], [date(2026, 1, 1), timedelta(1)]),
        (datetime(2026, 3, 28, tzinfo=ROME), datetime(2026, 3, 28, tzinfo=WINTER)),
        (datetime(2026, 10, 25, 2, 30, tzinfo=ROME), datetime(2026, 10, 25, 2, 30, tzinfo=SUMMER)),
        (datetime(2026, 10, 25, 2, 30, fold=1), datetime(2026, 10, 25, 2, 30, fold=1)),
        (time(1, tzinfo=WINTER), time(1, tzinfo=WINTER)),
        (defaultdict(int, a=1), defaultdict(int, a=1)),
        (deque([1], 3), deque([1], 3)),
        (int, int),
    ],
)
def test_the_same(before: Any, after: Any) -> None:
    """Though not one object."""
    assert is_same([before], [after])
    assert is_same([before, 1, [before]], [after, 1, [after]])


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        (1, True, ": int becomes bool"),
        (2**53 + 1, 2.0**53, ": int becomes float"),
        (1.0, 1, ": float becomes int"),
        ([1, [2, True]], [1, [2, 1]], "[1][1]: bool becomes int"),
        ([*range(99)], [*range(98), "98"], "[98]: int becomes str"),
        ([1, 2], [1], ": another list"),
        ((1, 2), [1, 2], ": tuple becomes list"),
        ({1: "a"}, {"1": "a"}, ".keys(): int becomes str"),
        ({"secret": Point(1)}, {"secret": {"x": 1}}, "[...]: Point becomes dict"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ".keys(): another str"),
        ({1}, {True}, ": another set"),
        ({"a"}, {"b"}, ": another set"),
        ([Point(1), Sub(1)], [Point(1), Point(1)], "[1]: Sub becomes Point"),
        (Point(1, "a"), Point(1, "b"), ".note: another str"),
        (noted(Point(1)), Point(1), ": another Point"),
        (Point(1), noted(Point(1)), ": another Point"),
        (Slotted(1), Slotted("1"), ".x: int becomes str"),
        (Bare(1), Bare(2), ".x: another int"),
        (Struct([1]), Struct([True]), ".x[0]: int becomes bool"),
        (noted(OpenStruct(1)), OpenStruct(1), ": another OpenStruct"),
        (Pair(1, 2), Pair(1, 3), "[1]: another int"),
        (Level.LOW, 1, ": Level becomes int"),
        (Level.LOW, Level.HIGH, "._value_: another int"),
        (Named("a", "b"), Named("a", "c"), ".origin: another str"),
        (Named("a", "b"), Named("b", "b"), ": another Named"),
        (Id(1), Id(2), ": another Id"),
        (hiding(5), Model(x=1), ".__pydantic_private__[...]: another int"),
        (pydantic.SecretStr("a"), pydantic.SecretStr("b"), "._secret_value: another str"),
        (Decimal("1.10"), Decimal("1.1"), ": another Decimal"),
        (
            datetime(2026, 3, 28, tzinfo=WINTER),
            datetime(2026, 3, 27, 23, tzinfo=UTC),
            ": another datetime",
        ),
        (
            datetime(2026, 10, 25, 2, 30, fold=1),
            datetime(2026, 10, 25, 2, 30),
            ": another datetime",
        ),
        (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 28), ": another datetime"),
        (time(1, tzinfo=ROME), time(1), ": another time"),
        (OrderedDict(a=1), {"a": 1}, ": OrderedDict becomes dict"),
        (Counter("a"), {"a": 1}, ": Counter becomes dict"),
        (defaultdict(int, a=1), defaultdict(lambda: 1, a=1), ": another defaultdict"),
        (deque([1], 3), deque([1]), ": another deque"),
        (deque([1]), deque([True]), ": another deque"),
        (object(), object(), ": another object"),
    ],
)
def test_not_the_same(before: Any, after: Any, place: str) -> None:
    """And where, without a value or a key."""
    assert not is_same([before], [after])
    assert not is_same([before, 1, [2]], [after, 1, [2]])
    assert change(before, after) == place


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, NAN]) | st.text("a"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
        | st.builds(Point, inner)
        | st.builds(Struct, inner)
    ),
    max_leaves=8,
)


@given(TREES, TREES)
def test_what_has_another_repr_is_not_the_same(before: Any, after: Any) -> None:
    """These say in their repr all that they are."""
    assert is_same([before], [after]) is (repr(before) == repr(after))


@dataclass
class Node:
    """One of a tree whose nodes know their parents."""

    name: str
    children: "list[Node]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parent: Node | None = None
        for child in self.children:
            child.parent = self


class Line(pydantic.BaseModel):
    sku: str
    _order: Any = pydantic.PrivateAttr(None)


class Order(pydantic.BaseModel):
    lines: list[Line]

    def model_post_init(self, _: Any) -> None:
        for line in self.lines:
            line._order = self


class Leaf(msgspec.Struct):
    leaves: "list[Leaf]" = []
    root: Any = None

    def __post_init__(self) -> None:
        for leaf in self.leaves:
            leaf.root = self


def tree(last: str = "9") -> Node:
    return Node("root", [Node("a", [Node(str(n)) for n in range(9)]), Node("b", [Node(last)])])


@pytest.mark.parametrize(
    "make",
    [
        tree,
        lambda: Order(lines=[Line(sku=str(n)) for n in range(10)]),
        lambda: Leaf([Leaf([Leaf(), Leaf()]), Leaf()]),
    ],
)
def test_objects_that_hold_each_other(make: Any) -> None:
    assert is_same([make()], [make()])


def test_a_change_among_objects_that_hold_each_other() -> None:
    assert not is_same([tree()], [tree("10")])
    assert change(tree(), tree("10"))
