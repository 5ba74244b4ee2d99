"""Values come back with the annotated type."""

from __future__ import annotations

import dataclasses
import enum
import http
from collections import Counter
from collections.abc import Iterator  # noqa: TC003 - resolved at run time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
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


class Base(pydantic.BaseModel):
    id: int


class Derived(Base):
    more: str = "more"


class Box(pydantic.BaseModel):
    item: Base


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Partial(pydantic.BaseModel):
    id: int
    token: str = pydantic.Field(default="none", exclude=True)


class Aliased(pydantic.BaseModel):
    both: int = pydantic.Field(alias="BOTH")
    read: int = pydantic.Field(validation_alias="READ")
    written: int = pydantic.Field(serialization_alias="WRITTEN")


class Closed(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    plain: Plain


class Event(msgspec.Struct):
    at: datetime
    more: Any = None


def item() -> Item: ...  # type: ignore[empty-body]
def record() -> Record: ...  # type: ignore[empty-body]
def row() -> Row: ...  # type: ignore[empty-body]
def options() -> Options: ...  # type: ignore[empty-body]
def colour() -> Colour | None: ...
def mapping() -> dict[int, tuple[Decimal, timedelta]]: ...  # type: ignore[empty-body]
def anything() -> Any: ...
def plain() -> list[Plain]: ...  # type: ignore[empty-body]
def base() -> Base: ...  # type: ignore[empty-body]
def bases() -> list[Base]: ...  # type: ignore[empty-body]
def box() -> Box: ...  # type: ignore[empty-body]
def login() -> Login: ...  # type: ignore[empty-body]
def partial() -> Partial: ...  # type: ignore[empty-body]
def aliased() -> Aliased: ...  # type: ignore[empty-body]
def closed() -> Closed: ...  # type: ignore[empty-body]
def event() -> Event: ...  # type: ignore[empty-body]
def either() -> Base | Aliased: ...  # type: ignore[empty-body]
def measured() -> Annotated[int, {"unit": "s"}]: ...  # type: ignore[empty-body]
def decimal() -> Decimal: ...  # type: ignore[empty-body]
def number() -> int: ...  # type: ignore[empty-body]
def moments() -> list[datetime]: ...  # type: ignore[empty-body]
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
        (bases, [Base(id=1)]),
        (either, Base(id=1)),
        (measured, 5),
        (aliased, Aliased.model_validate({"BOTH": 1, "READ": 2, "written": 3})),
    ],
)
def test_annotated_types(function: Any, value: Any) -> None:
    """With forward references and `from __future__ import annotations`."""
    codec = codec_of(function)
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("function", "value", "place"),
    [
        (base, Derived(id=1), "value: Derived becomes Base"),
        (bases, [Base(id=1), Derived(id=1)], r"value\[1\]: Derived becomes Base"),
        (box, Box(item=Derived(id=1)), r"value\.item: Derived becomes Base"),
        (login, Login(user="u", password=pydantic.SecretStr("canary")), r"value\.password\."),
        (partial, Partial(id=1, token="canary"), r"value\.token: another str"),
        (anything, [Item(1, Decimal(1))], r"value\[0\]: Item becomes dict"),
        (anything, (1, 2), "value: tuple becomes list"),
        (anything, Counter("a"), "value: Counter becomes dict"),
        (anything, bytearray(b"a"), "value: bytearray becomes bytes"),
        (decimal, 1.5, "value: float becomes Decimal"),
        (number, http.HTTPStatus.OK, "value: HTTPStatus becomes int"),
        (number, "text", "ValidationError"),
    ],
)
def test_value_that_would_change_is_refused(function: Any, value: Any, place: str) -> None:
    """It would be another one on a hit; the message tells where, and shows no value."""
    with pytest.raises(CodecError, match=place) as caught:
        codec_of(function).encode(value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("value", [{1: "a"}, [b"a"], float("nan")])
def test_value_that_json_would_change_is_refused(value: Any) -> None:
    """Keys become text, and so do bytes; NaN has no form."""
    with pytest.raises(CodecError, match="becomes"):
        plain_codec("json").encode(value)


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Europe/Rome"), timezone(timedelta(hours=-3.5))])
def test_times_keep_their_offset(codec: str, zone: tzinfo) -> None:
    """The same day and hour, and not only the same moment."""
    at = datetime(2026, 3, 28, 0, 30, tzinfo=zone)
    made = codec_of(moments, codec)
    (decoded,) = made.decode(made.encode([at]))
    assert decoded == at
    assert decoded.isoformat() == at.isoformat()


def test_times_of_no_type_are_kept_beside_others() -> None:
    """As msgpack has them, where it changes none."""
    value = Event(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    codec = codec_of(event)
    assert codec.decode(codec.encode(value)) == value


def test_models_of_other_programs_have_aliases() -> None:
    """Both are read, names and aliases; names are written."""
    codec = codec_of(aliased)
    theirs = codec.decode(b'{"BOTH": 1, "READ": 2, "written": 3}')
    assert codec.encode(theirs) == b'{"both":1,"read":2,"written":3}'


def test_pydantic_tells_nothing_of_a_value_that_does_not_fit(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Its warning would show the value."""
    with pytest.raises(CodecError):
        codec_of(box).encode(Box.model_construct(item="canary"))
    assert not recwarn.list


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


@pytest.mark.parametrize("function", [plain, iterator, unresolved, closed])
def test_type_that_cannot_be_stored_is_refused(function: Any) -> None:
    """The message names the function."""
    with pytest.raises(ConfigError, match=function.__name__):
        codec_of(function)


@pytest.mark.parametrize("value", [object(), 2**70, lambda: 1])
def test_value_without_a_form(value: Any) -> None:
    """A CodecError that names the type."""
    with pytest.raises(CodecError, match=type(value).__name__):
        PLAIN.encode(value)
