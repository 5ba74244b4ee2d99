"""Stored bytes are judged before they are believed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache.entry import HIT, MAX_SKEW, MISS, Entry, EntryError, decide, pack, unpack

TIMES = st.floats(min_value=0, max_value=4e9)
ENTRIES = st.builds(Entry, TIMES, TIMES | st.just(math.inf), st.binary(max_size=50))
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@given(ENTRIES, KEYS)
def test_round_trip(entry: Entry, key: str) -> None:
    """What was packed for a key is unpacked for it."""
    assert unpack(pack(entry, key), key) == entry


@given(ENTRIES, KEYS, st.data())
def test_flipped_bit_is_refused(entry: Entry, key: str, data: st.DataObject) -> None:
    """Wherever it is."""
    raw = bytearray(pack(entry, key))
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(EntryError):
        unpack(bytes(raw), key)


@given(ENTRIES, KEYS, st.data())
def test_truncated_entry_is_refused(entry: Entry, key: str, data: st.DataObject) -> None:
    """At whatever length."""
    raw = pack(entry, key)
    with pytest.raises(EntryError):
        unpack(raw[: data.draw(st.integers(0, len(raw) - 1))], key)


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused(raw: bytes) -> None:
    """Never another exception."""
    with pytest.raises(EntryError):
        unpack(raw, "k")


def test_entry_of_another_key_is_refused() -> None:
    """A reply meant for someone else."""
    with pytest.raises(EntryError, match="another key"):
        unpack(pack(Entry(1.0, 2.0, b"x"), "a"), "b")


@pytest.mark.parametrize(
    ("now", "decision"),
    [(100.0, HIT), (159.9, HIT), (160.0, MISS), (1e12, MISS), (100.0 - MAX_SKEW, HIT),
     (99.0 - MAX_SKEW, MISS)],
)  # fmt: skip
def test_decision(now: float, decision: object) -> None:
    """Fresh until it expires; from far in the future, not to be judged."""
    assert decide(Entry(100.0, 160.0, b""), now) is decision


def test_never_expires() -> None:
    """Infinity is a time like any other."""
    assert decide(Entry(100.0, math.inf, b""), 1e15) is HIT
