"""Stored bytes are judged before they are believed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.cache.entry import (
    AHEAD,
    HIT,
    MAX_SKEW,
    MISS,
    SPARE,
    STALE,
    Entry,
    EntryError,
    Freshness,
    decide,
)
from datakit.cache.envelope import SealedEnvelope
from datakit.cache.seal import Seal

TIMES = st.floats(min_value=0, max_value=4e9)
FINGERPRINTS = st.integers(0, 2**32 - 1)
ENTRIES = st.builds(Entry, TIMES, TIMES | st.just(math.inf), st.binary(max_size=50), FINGERPRINTS)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)

PLAIN = SealedEnvelope(Seal(compress_over=20))
SEALED = SealedEnvelope(
    Seal(compress_over=20, encrypt={"a": b"k" * 32}, signing_key=b"s" * 32),
)
ENVELOPES = pytest.mark.parametrize("envelope", [PLAIN, SEALED], ids=["plain", "sealed"])


@ENVELOPES
@given(entry=ENTRIES, key=KEYS)
def test_round_trip(envelope: SealedEnvelope, entry: Entry, key: str) -> None:
    """What was packed for a key is unpacked for it."""
    assert envelope.unpack(envelope.pack(entry, key), key) == entry


@ENVELOPES
@given(entry=ENTRIES, key=KEYS, data=st.data())
def test_flipped_bit_is_refused(
    envelope: SealedEnvelope, entry: Entry, key: str, data: st.DataObject
) -> None:
    """Wherever it is."""
    raw = bytearray(envelope.pack(entry, key))
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8
    with pytest.raises(EntryError):
        envelope.unpack(bytes(raw), key)


@ENVELOPES
@given(entry=ENTRIES, key=KEYS, data=st.data())
def test_truncated_entry_is_refused(
    envelope: SealedEnvelope, entry: Entry, key: str, data: st.DataObject
) -> None:
    """At whatever length."""
    raw = envelope.pack(entry, key)
    with pytest.raises(EntryError):
        envelope.unpack(raw[: data.draw(st.integers(0, len(raw) - 1))], key)


@ENVELOPES
@given(raw=st.binary(max_size=100))
def test_foreign_bytes_are_refused(envelope: SealedEnvelope, raw: bytes) -> None:
    """Never another exception."""
    with pytest.raises(EntryError):
        envelope.unpack(raw, "k")


@ENVELOPES
def test_entry_of_another_key_is_refused(envelope: SealedEnvelope) -> None:
    """A reply meant for someone else."""
    with pytest.raises(EntryError, match="another key"):
        envelope.unpack(envelope.pack(Entry(1.0, 2.0, b"x"), "a"), "b")


def test_entry_of_another_format_is_refused() -> None:
    """The message says which."""
    raw = PLAIN.pack(Entry(1.0, 2.0, b"x"), "a")
    with pytest.raises(EntryError, match="of format 9"):
        PLAIN.unpack(raw[:2] + b"\x09" + raw[3:], "a")


EXACT = Freshness()
LATER = Freshness(ahead=0.5, while_revalidate=10, if_error=20)


@pytest.mark.parametrize(
    ("now", "freshness", "decision"),
    [(100.0, EXACT, HIT), (159.9, EXACT, HIT), (160.0, EXACT, MISS), (1e12, EXACT, MISS),
     (100.0 - MAX_SKEW, EXACT, HIT), (99.0 - MAX_SKEW, EXACT, MISS),
     (129.9, LATER, HIT), (130.0, LATER, AHEAD), (159.9, LATER, AHEAD), (160.0, LATER, STALE),
     (169.9, LATER, STALE), (170.0, LATER, SPARE), (179.9, LATER, SPARE), (180.0, LATER, MISS)],
)  # fmt: skip
def test_decision(now: float, freshness: Freshness, decision: object) -> None:
    """Fresh until it expires; from far in the future, not to be judged."""
    assert decide(Entry(100.0, 160.0, b""), now, freshness) is decision


def test_never_expires() -> None:
    """Infinity is a time like any other."""
    assert decide(Entry(100.0, math.inf, b""), 1e15, LATER) is HIT
