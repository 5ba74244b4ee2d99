"""How an entry looks in a server. Pure but for the random numbers of encryption."""

import math
import struct
from typing import Final, Protocol
from zlib import crc32

from datakit.cache.entry import Entry, EntryError
from datakit.cache.seal import Seal

MAGIC: Final = b"dk\x02"
"""Two letters and the format's number."""

_HEADER = struct.Struct(">3sBIIdd")  # magic, flags, checksum, fingerprint, stored at, fresh until
_BOUND = struct.Struct(">BIdd")  # what a seal binds beside the key


class Envelope(Protocol):
    """Makes bytes of entries, and entries of bytes."""

    def pack(self, entry: Entry, key: str) -> bytes:
        """Return the bytes to store under `key`."""
        ...

    def unpack(self, raw: bytes, key: str) -> Entry:
        """Return the entry that was packed for `key`.

        Raises:
            EntryError: the bytes are foreign, of another format, damaged or of another key.
        """
        ...


class SealedEnvelope:
    """A header with times, type and checksum, then the payload as the seal makes it."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def pack(self, entry: Entry, key: str) -> bytes:
        """Return the bytes to store under `key`."""
        flags, compressed = self._seal.compress(entry.payload)
        bound = _bound(key, flags, entry)
        payload = self._seal.close(compressed, bound)
        checksum = crc32(payload, crc32(bound))
        return (
            _HEADER.pack(
                MAGIC, flags, checksum, entry.fingerprint, entry.stored_at, entry.fresh_until
            )
            + payload
        )

    def unpack(self, raw: bytes, key: str) -> Entry:
        """Return the entry that was packed for `key`.

        Raises:
            EntryError: the bytes are foreign, of another format, damaged, of another key, or not
                sealed by us.
        """
        if len(raw) < _HEADER.size or raw[:2] != MAGIC[:2]:
            raise EntryError("not written by datakit")
        magic, flags, checksum, fingerprint, stored_at, fresh_until = _HEADER.unpack_from(raw)
        if magic != MAGIC:
            raise EntryError(f"of format {magic[2]}, this datakit reads format {MAGIC[2]}")
        payload = raw[_HEADER.size :]
        entry = Entry(stored_at, fresh_until, payload, fingerprint)
        bound = _bound(key, flags, entry)
        if checksum != crc32(payload, crc32(bound)):
            raise EntryError("damaged, or stored for another key")
        if flags or not self._seal.is_plain:
            entry.payload = self._seal.expand(flags, self._seal.open(payload, bound))
        return entry


def _bound(key: str, flags: int, entry: Entry) -> bytes:
    times = _BOUND.pack(flags, entry.fingerprint, entry.stored_at, entry.fresh_until)
    return times + key.encode()


class Bare:
    """The payload alone, which other programs read and write; the server knows its TTL."""

    def pack(self, entry: Entry, key: str) -> bytes:
        """Return the payload."""
        return entry.payload

    def unpack(self, raw: bytes, key: str) -> Entry:
        """Return an entry that is fresh as long as the server has it."""
        return Entry(0.0, math.inf, raw)
