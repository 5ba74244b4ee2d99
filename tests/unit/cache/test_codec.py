"""Values come back with the annotated type."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator  # noqa: TC003 - resolved at run time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache.codec import codec_of, plain_codec
from datakit.errors import CodecError, ConfigError


@dataclasses.dataclass
class Item:
    id: int
    price: Decimal
    parts: list[Item] = dataclasses.field(default_factory=list)


class Record(msgspec.Struct):
    when: datetime
    id: UUID


class Row(NamedTuple):
    a: int
    b: str


class Options(TypedDict, total=False):
    colour: str


class Colour(enum.Enum):
    RED = "red"


class Plain:
    pass


def item() -> Item: ...  # type: ignore[empty-body]
def record() -> Record: ...  # type: ignore[empty-body]
def row() -> Row: ...  # type: ignore[empty-body]
def options() -> Options: ...  # type: ignore[empty-body]
def colour() -> Colour | None: ...
def mapping() -> dict[int, tuple[Decimal, timedelta]]: ...  # type: ignore[empty-body]
def anything() -> Any: ...
def plain() -> list[Plain]: ...  # type: ignore[empty-body]
def iterator() -> Iterator[int]: ...  # type: ignore[empty-body]
def unresolved() -> Missing: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (item, Item(1, Decimal("1.10"), [Item(2, Decimal(3))])),
        (record, Record(datetime(2026, 1, 2, tzinfo=UTC), UUID(int=5))),
        (row, Row(1, "x")),
        (options, {"colour": "red"}),
        (colour, Colour.RED),
        (colour, None),
        (mapping, {1: (Decimal("2.5"), timedelta(seconds=3))}),
        (anything, {"a": [1, None]}),
    ],
)
def test_annotated_types(function: Any, value: Any) -> None:
    """With forward references and `from __future__ import annotations`."""
    codec = codec_of(function)
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


PLAIN = plain_codec("msgpack")
JSONLIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


@given(JSONLIKE)
def test_plain_round_trip(value: Any) -> None:
    """Without an annotation: what msgpack holds."""
    assert PLAIN.decode(PLAIN.encode(value)) == value


@given(st.binary(max_size=60))
def test_foreign_bytes_are_a_codec_error(raw: bytes) -> None:
    """Never another exception, and none of the bytes in the text."""
    with pytest.raises(CodecError, match="not of the type") as caught:
        codec_of(item).decode(raw + b"\xc1")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("function", [plain, iterator, unresolved])
def test_type_that_cannot_be_stored_is_refused(function: Any) -> None:
    """The message names the function."""
    with pytest.raises(ConfigError, match=function.__name__):
        codec_of(function)


@pytest.mark.parametrize("value", [object(), 2**70, lambda: 1])
def test_value_without_a_form(value: Any) -> None:
    """A CodecError that names the type."""
    with pytest.raises(CodecError, match=type(value).__name__):
        PLAIN.encode(value)
