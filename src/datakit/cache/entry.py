"""What is stored under a key: the value's bytes and what is needed to judge them. Pure."""

import math
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal
from zlib import crc32

MAGIC: Final = b"dk"
FORMAT: Final = 1

MAX_SKEW: Final = 60.0
"""Seconds that a writer's wall clock may be ahead of ours. An entry from further in the future
cannot be judged: the clock was set back, or the two disagree."""

_HEADER = struct.Struct(">2sBIdd")  # magic, format, checksum, stored at, expires at


class Decision(Enum):
    """What to do with an entry that was found."""

    HIT = "hit"
    MISS = "miss"


HIT: Final = Decision.HIT
MISS: Final = Decision.MISS


class Unshared(Enum):
    """The type of `UNSHARED`."""

    UNSHARED = "unshared"


UNSHARED: Final = Unshared.UNSHARED
"""Stands in `Entry.shared` where the value must be decoded anew for everyone who asks."""


class EntryError(ValueError):
    """Stored bytes that are no entry of this key; the text says why and holds none of them."""


@dataclass(slots=True)
class Entry:
    """A stored value.

    stored_at, expires_at: wall-clock seconds; infinity where it never expires.
    payload: the encoded value.
    shared: the value itself where it is immutable and never left the process.
    """

    stored_at: float
    expires_at: float
    payload: bytes
    shared: object = UNSHARED


def decide(entry: Entry, now: float) -> Literal[Decision.HIT, Decision.MISS]:
    """Return whether `entry` may be served at the wall-clock second `now`."""
    return HIT if entry.stored_at - MAX_SKEW <= now < entry.expires_at else MISS


def pack(entry: Entry, key: str) -> bytes:
    """Return the bytes to store under `key`."""
    header = _HEADER.pack(MAGIC, FORMAT, 0, entry.stored_at, entry.expires_at)
    checksum = _checksum(key, header, entry.payload)
    return _HEADER.pack(MAGIC, FORMAT, checksum, entry.stored_at, entry.expires_at) + entry.payload


def unpack(raw: bytes, key: str) -> Entry:
    """Return the entry that was packed for `key`.

    Raises:
        EntryError: the bytes are foreign, of another format, damaged or of another key.
    """
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise EntryError("not written by datakit")
    _, version, checksum, stored_at, expires_at = _HEADER.unpack_from(raw)
    if version != FORMAT:
        raise EntryError(f"of format {version}, this datakit reads format {FORMAT}")
    payload = raw[_HEADER.size :]
    if checksum != _checksum(key, _HEADER.pack(MAGIC, FORMAT, 0, stored_at, expires_at), payload):
        raise EntryError("damaged, or stored for another key")
    return Entry(stored_at, expires_at, payload)


def _checksum(key: str, header: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(header, crc32(key.encode())))


def expiry(stored_at: float, seconds: float) -> float:
    """Return the wall-clock second at which a value stored for `seconds` expires."""
    return math.inf if seconds == math.inf else stored_at + seconds
