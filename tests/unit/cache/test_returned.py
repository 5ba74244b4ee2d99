"""What a function says it returns, and nothing else that it says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

import pytest

from datakit.cache import Cache
from datakit.cache.codec import returned_by
from datakit.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal

    from sqlalchemy.orm import Session


NO_SESSION: Any = None


@dataclass
class Item:
    id: int


def count(session: Session, n: int) -> int:
    return n


def items(session: Session) -> Sequence[Item]: ...  # type: ignore[empty-body]
def nothing(session: Session) -> None: ...
def unknown(n: int) -> Decimal: ...  # type: ignore[empty-body]
def silent(session: Session): ...  # type: ignore[no-untyped-def]


class Shop:
    def item(self, session: Session) -> Item: ...  # type: ignore[empty-body]


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        return fn(*args)

    return call


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (count, int),
        (items, Sequence[Item]),
        (nothing, NoneType),
        (silent, Any),
        (Shop().item, Item),
        (logged(count), int),
        (functools.partial(count, NO_SESSION), int),
        (functools.partial(functools.partial(logged(items)), None), Sequence[Item]),
        (lambda: 1, Any),
    ],
)
def test_return_annotation_alone_is_resolved(function: Any, returned: object) -> None:
    """Parameters may be annotated with what only a type checker imports."""
    assert returned_by(function, "f") == returned


def test_annotation_may_name_a_class_of_the_function_around() -> None:
    """As far as the function itself uses it: Python keeps no other."""

    @dataclass
    class Local:
        id: int

    def find(session: Session) -> Local | None:
        return Local(1) if unset else None

    assert returned_by(find, "find") == Local | None
    unset = False
    assert returned_by(find, "find") == Local | None


def test_return_annotation_for_type_checkers_alone_is_refused() -> None:
    """It says how values are to be decoded."""
    with pytest.raises(ConfigError, match="unknown: the return annotation cannot be resolved"):
        returned_by(unknown, "unknown")


def test_functions_that_take_what_is_not_imported_are_cached() -> None:
    """Decorated, and as loaders."""
    cache = Cache()
    counted = cache.cached(ttl=60, ignore=("session",))(count)
    assert counted(NO_SESSION, 1) == counted(NO_SESSION, 1) == 1

    def load(session: Session) -> Item:
        return Item(7)

    for _ in range(2):
        assert cache.get_or_load("item", functools.partial(load, NO_SESSION), 60) == Item(7)
    assert cache.stats().loads == 2
