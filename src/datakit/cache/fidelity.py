"""Whether what comes back from a cache is what went in: equal, and of the same types throughout.

Lists of values are looked at together, a level of them at a time: one call a value would cost more
than to encode and decode it.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import EnumMeta
from functools import cached_property
from itertools import chain, compress, repeat
from operator import attrgetter, is_
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any, Final, cast
from uuid import UUID

import msgspec

ATOMS: Final = frozenset({str, int, float, bool, bytes, NoneType})
"""Types (exactly these) whose values hold nothing else."""

_COMPARED: Final = frozenset(
    {date, timedelta, UUID, PosixPath, PurePosixPath, WindowsPath, PureWindowsPath}
)
"""Types (exactly these) whose values say all there is to say when they compare; a path's other
attributes are notes to itself."""

DEEPEST: Final = 20
"""Steps to the place of a change that are told."""

_REMADE: Final = "__pydantic_fields_set__"
"""An attribute that says how an object was made; no two models are unequal by it."""


_RECORD: Final = (
    "__dataclass_fields__",
    "__struct_fields__",
    "__pydantic_fields__",
    "__attrs_attrs__",
)
"""Marks of classes whose values are their attributes."""


def is_same(before: list[Any], after: list[Any]) -> bool:
    """Return whether these are equal values, each of the type of its other, all the way down.

    Two objects that are being compared already, further up, count as the same: one may hold another
    that holds it. NaN is NaN; a time keeps its offset, whatever the class of its zone. An int may
    become the equal float, which it stands for where a float is declared. Source: PEP 484, "The
    numeric tower". Objects are the same when their attributes are, whatever they say to `==`. What
    compares otherwise may raise anything.
    """
    return _are_same(before, after, set())


def _are_same(before: list[Any], after: list[Any], seen: set[tuple[int, int]]) -> bool:
    """Return what `is_same` does. seen: the objects that were compared, or are being."""
    kinds, wanted = list(map(type, before)), list(map(type, after))
    if kinds != wanted:
        if not all(map(_is_promoted, before, after)):
            return False
        before, kinds = [*map(_promoted, before, after)], wanted
    composite = set(kinds) - ATOMS
    if not composite:
        return _are_equal(before, after)
    if len(composite) == 1 and kinds.count(kinds[0]) == len(kinds):
        return _is_alike(kinds[0], before, after, seen)
    atoms = list(map(ATOMS.__contains__, kinds))
    if not _are_equal(list(compress(before, atoms)), list(compress(after, atoms))):
        return False
    for kind in composite:
        chosen = list(map(is_, kinds, repeat(kind)))
        some, others = list(compress(before, chosen)), list(compress(after, chosen))
        if not _is_alike(kind, some, others, seen):
            return False
    return True


def change(before: object, after: object, depth: int = 0) -> str:
    """Return where two values that are not the same begin to differ: types, names, no value.

    depth: of the place so far; it is not looked for below `DEEPEST`.
    """
    kind = type(before)
    if depth == DEEPEST:
        return "..."
    if kind is not type(after):
        return f": {kind.__qualname__} becomes {type(after).__qualname__}"
    names, some, others = _children(before, after)
    low, high = 0, len(some)
    if len(others) != high or is_same(some, others):
        return f": another {kind.__qualname__}"
    while high - low > 1:
        middle = (low + high) // 2
        if is_same(some[low:middle], others[low:middle]):
            low = middle
        else:
            high = middle
    return names(low) + change(some[low], others[low], depth + 1)


def _is_promoted(before: object, after: object) -> bool:
    """Return whether both are of one type, or an int became the float that it is equal to."""
    if type(before) is int and type(after) is float:
        return before == after
    return type(before) is type(after)


def _promoted(before: object, after: object) -> object:
    return before if type(before) is type(after) else after


def _is_alike(
    kind: type[Any], before: list[Any], after: list[Any], seen: set[tuple[int, int]]
) -> bool:
    """Return whether values that are all of one type, no atom, are the same."""
    if all(map(is_, before, after)):
        return True
    if isinstance(kind, EnumMeta):
        return False
    if kind in _COMPARED:
        return before == after
    if issubclass(kind, msgspec.Struct) and not kind.__dictoffset__:
        some, others = _unseen(before, after, seen)
        fields = map(attrgetter, kind.__struct_fields__)
        return all(_are_same([*map(get, some)], [*map(get, others)], seen) for get in fields)
    base, parts = next((found for found in _PARTS if issubclass(kind, found[0])), (None, None))
    if parts is not None and not all(map(_are_same, parts(before), parts(after), repeat(seen))):
        return False
    if kind is base:
        return True
    before, after = _unseen(before, after, seen)
    return _have_same_attributes(kind, before, after, seen, is_whole=parts is None)


def _unseen(
    before: list[Any], after: list[Any], seen: set[tuple[int, int]]
) -> tuple[list[Any], list[Any]]:
    """Return the objects that are to be compared for the first time, and remember them."""
    ids = zip(map(id, before), map(id, after), strict=True)
    pairs = dict(zip(ids, zip(before, after, strict=True), strict=True))
    new = [pair for both, pair in pairs.items() if both not in seen]
    seen.update(pairs)
    return [pair[0] for pair in new], [pair[1] for pair in new]


def _have_same_attributes(
    kind: type[Any],
    before: list[Any],
    after: list[Any],
    seen: set[tuple[int, int]],
    *,
    is_whole: bool,
) -> bool:
    """Return whether objects of a type are the same in their attributes.

    is_whole: nothing else has been looked at; they may hold more than their attributes then.
    """
    some, others = _attributes(kind, before), _attributes(kind, after)
    if is_whole and not any(hasattr(kind, mark) for mark in _RECORD):
        compares: Any = kind.__eq__
        if (compares is not object.__eq__ or not any(some)) and before != after:
            return False
    if list(map(dict.keys, some)) != list(map(dict.keys, others)):
        return False
    return _are_same(
        _flat(map(dict.values, some)),
        [held[name] for names, held in zip(some, others, strict=True) for name in names],
        seen,
    )


def _children(before: Any, after: Any) -> tuple[Callable[[int], str], list[Any], list[Any]]:
    """Return what two values of one type hold, and what to call the one at a position."""
    kind = type(before)
    if isinstance(before, list | tuple):
        return "[{}]".format, list(before), list(after)
    if isinstance(before, dict):
        keys = len(before)
        return (
            lambda n: ".keys()" if n < keys else "[...]",
            [*before, *before.values()],
            [*after, *after.values()],
        )
    (some,), (others,) = _attributes(kind, [before]), _attributes(kind, [after])
    names = [name for name in some if name in others]
    return (
        lambda n: f".{names[n]}",
        [some[name] for name in names],
        [others[name] for name in names],
    )


def _are_equal(before: list[Any], after: list[Any]) -> bool:
    """Return whether atoms are equal, each to its other."""
    return before == after or all(map(_is_equal, before, after))


def _is_equal(before: Any, after: Any) -> bool:
    return bool(before == after or (before != before and after != after))  # NaN


def _attributes(kind: type[Any], values: list[Any]) -> list[dict[str, Any]]:
    """Return all attributes of objects of a type, but those made again when they are asked for."""
    states = list(map(object.__getstate__, values))
    computed = {
        name
        for base in kind.__mro__
        for name, member in vars(base).items()
        if isinstance(member, cached_property)
    }
    if set(map(type, states)) == {dict} and not computed:
        return cast("list[dict[str, Any]]", states)
    return [
        {name: held for name, held in _all_of(state) if name not in computed} for state in states
    ]


def _all_of(state: Any) -> Iterable[tuple[str, Any]]:
    """Return the names and values in what an object tells of its state."""
    if not isinstance(state, tuple):
        return (state or {}).items()
    own, slots = state
    slots.pop(_REMADE, None)
    return {**(own or {}), **slots}.items()


def _flat(values: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(values))


def _of_lists(values: list[Any]) -> list[list[Any]]:
    return [list(map(len, values)), _flat(values)]


def _of_dicts(values: list[Any]) -> list[list[Any]]:
    return [list(map(len, values)), _flat(values), _flat(map(dict.values, values))]


def _of_sets(values: list[Any]) -> list[list[Any]]:
    """In an order that is the same for both: that of sets is by chance."""
    return [list(map(len, values)), _flat(sorted(held, key=repr) for held in values)]


def _of_times(values: list[Any]) -> list[list[Any]]:
    """The text has the offset; a time without a zone is one of two where clocks are set back."""
    return [
        [value.isoformat() for value in values],
        [value.tzinfo is None and value.fold for value in values],
    ]


_PARTS: Final[tuple[tuple[type[Any], Callable[[list[Any]], list[list[Any]]]], ...]] = (
    (defaultdict, lambda values: [[v.default_factory for v in values], *_of_dicts(values)]),
    (deque, lambda values: [[v.maxlen for v in values], *_of_lists(values)]),
    (list, _of_lists),
    (tuple, _of_lists),
    (dict, _of_dicts),
    (set, _of_sets),
    (frozenset, _of_sets),
    (datetime, _of_times),
    (time, _of_times),
    (Decimal, lambda values: [list(map(Decimal.__str__, values))]),
    (str, lambda values: [list(map(str.__str__, values))]),
    (int, lambda values: [list(map(int.__int__, values))]),
    (float, lambda values: [list(map(float.__float__, values))]),
    (bytes, lambda values: [list(map(bytes.__bytes__, values))]),
)
"""What is to be the same, in so many lists, for values of a type and of those derived from it."""
