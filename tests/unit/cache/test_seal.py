"""What is encrypted or signed is bound to its key, type and times."""

import subprocess
import sys

import pytest

from datakit.cache.entry import EntryError
from datakit.cache.seal import MAX_EXPANDED, Seal
from datakit.errors import MissingExtraError

KEY = b"k" * 32
SEALS = {
    "encrypted": Seal(encrypt={"a": KEY}),
    "signed": Seal(signing_key=KEY),
    "both": Seal(encrypt={"a": KEY}, signing_key=KEY),
}
seals = pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)


@seals
def test_round_trip(seal: Seal) -> None:
    """What was closed opens."""
    for payload in (b"", b"x", b"x" * 100_000):
        assert seal.open(seal.close(payload, b"bound"), b"bound") == payload


@seals
def test_bound_bytes_cannot_be_exchanged(seal: Seal) -> None:
    """The header's checksum can be forged, these cannot."""
    closed = seal.close(b"payload", b"bound")
    for other in (b"", b"boune", b"bound ", b"boun"):
        with pytest.raises(EntryError):
            seal.open(closed, other)


@seals
def test_every_flipped_bit_is_seen(seal: Seal) -> None:
    """Wherever it is."""
    closed = seal.close(b"payload", b"bound")
    for place in range(len(closed) * 8):
        broken = bytearray(closed)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(EntryError):
            seal.open(bytes(broken), b"bound")


@seals
def test_what_is_cut_is_seen(seal: Seal) -> None:
    """At whatever length."""
    closed = seal.close(b"payload", b"bound")
    for size in range(len(closed)):
        with pytest.raises(EntryError):
            seal.open(closed[:size], b"bound")


def test_equal_values_do_not_look_alike() -> None:
    """Each has a nonce of its own."""
    seal = SEALS["encrypted"]
    assert seal.close(b"x", b"b") != seal.close(b"x", b"b")


def test_the_name_of_a_key_is_bound() -> None:
    """A value cannot be handed to another key of the same bytes."""
    closed = Seal(encrypt={"a": KEY}).close(b"x", b"b")
    with pytest.raises(EntryError):
        Seal(encrypt={"b": KEY}).open(closed.replace(b"\x01a", b"\x01b", 1), b"b")


def test_a_bomb_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expanding is bounded."""
    monkeypatch.setattr("datakit.cache.seal.MAX_EXPANDED", 1000)
    seal = Seal(compress_over=10)
    flags, small = seal.compress(b"x" * 1000)
    assert seal.expand(flags, small) == b"x" * 1000
    flags, bomb = seal.compress(b"x" * 1001)
    with pytest.raises(EntryError, match="too large"):
        seal.expand(flags, bomb)
    with pytest.raises(EntryError, match="as it says"):
        seal.expand(flags, b"nonsense")
    assert MAX_EXPANDED > 1000


def test_without_the_package_the_command_is_told() -> None:
    """At construction, not at the first value."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from datakit import Cache\n"
        "Cache('redis://h')\n"
        "Cache('redis://h', encrypt={'a': b'k' * 32})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert MissingExtraError.__name__ in last
    assert "datakit[encrypt]" in last
