"""How an entry looks in a server. Pure but for the random numbers of encryption."""

import math
import struct
from typing import Final, Protocol
from zlib import crc32

from datakit.cache.entry import Entry, EntryError
from datakit.cache.seal import Seal

MAGIC: Final = b"dk\x02"
"""Two letters and the format's number."""

_HEAD = struct.Struct(">3sBI")  # magic, flags, checksum of all that follows, flags and key
_BODY = struct.Struct(">Idd")  # fingerprint, stored at, fresh until
_HEADER = struct.Struct(">3sBIIdd")  # both


class Envelope(Protocol):
    """Makes bytes of entries, and entries of bytes. is_dated: whether these tell their age."""

    is_dated: bool

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

    is_dated = True

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def pack(self, entry: Entry, key: str) -> bytes:
        """Return the bytes to store under `key`."""
        flags, compressed = self._seal.compress(entry.payload)
        body = _BODY.pack(entry.fingerprint, entry.stored_at, entry.fresh_until)
        payload = self._seal.close(compressed, _bound(key, flags, body))
        checksum = crc32(payload, crc32(body, crc32(key.encode(), flags)))
        return _HEAD.pack(MAGIC, flags, checksum) + body + payload

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
        body, payload = raw[_HEAD.size : _HEADER.size], raw[_HEADER.size :]
        if checksum != crc32(payload, crc32(body, crc32(key.encode(), flags))):
            raise EntryError("damaged, or stored for another key")
        if flags or not self._seal.is_plain:
            bound = _bound(key, flags, body)
            payload = self._seal.expand(flags, self._seal.open(payload, bound))
        return Entry(stored_at, fresh_until, payload, fingerprint)


def _bound(key: str, flags: int, body: bytes) -> bytes:
    """Return what a seal binds beside the payload."""
    return bytes([flags]) + body + key.encode()


class Bare:
    """The payload alone, which other programs read and write; the server knows its TTL."""

    is_dated = False

    def pack(self, entry: Entry, key: str) -> bytes:
        """Return the payload."""
        return entry.payload

    def unpack(self, raw: bytes, key: str) -> Entry:
        """Return an entry that is fresh as long as the server has it."""
        return Entry(0.0, math.inf, raw)
