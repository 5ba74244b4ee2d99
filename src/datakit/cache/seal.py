"""Compression, encryption and signatures of payloads."""

import hmac
import os
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from datakit._extras import require
from datakit.cache.entry import EntryError
from datakit.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

COMPRESSED: Final = 1
MAX_EXPANDED: Final = 512 * 1024 * 1024
"""Bytes that a compressed payload may grow to; a larger one is a miss."""

_NONCE: Final = 12
"""Bytes, random for each value. Source: NIST SP 800-38D, section 8.2.2."""

_KEY_SIZES: Final = (16, 24, 32)
_DIGEST: Final = sha256().digest_size


class Seal:
    """What is done to payloads on their way to a server, and undone on the way back.

    compress_over: bytes from which on payloads are compressed; None for never.
    encrypt: AES keys by their ids. The first one encrypts, all decrypt.
    signing_key: an HMAC-SHA256 key; payloads with another signature are not even looked at.

    Raises:
        ConfigError: a key is of no use.
        MissingExtraError: encryption needs the package cryptography.
    """

    def __init__(
        self,
        *,
        compress_over: int | None = None,
        encrypt: Mapping[str, bytes] | None = None,
        signing_key: bytes | None = None,
    ) -> None:
        self._compress_over = compress_over
        self._signing_key = signing_key
        self._ciphers = _ciphers(encrypt) if encrypt is not None else {}
        self._current = next(iter(self._ciphers), b"")
        self.is_plain = not self._ciphers and signing_key is None
        """Whether `close` and `open` change nothing."""

    def compress(self, payload: bytes) -> tuple[int, bytes]:
        """Return flags for `expand`, and the payload, smaller where that is worth it."""
        if self._compress_over is None or len(payload) <= self._compress_over:
            return 0, payload
        smaller = zlib.compress(payload, 1)
        return (COMPRESSED, smaller) if len(smaller) < len(payload) else (0, payload)

    def expand(self, flags: int, payload: bytes) -> bytes:
        """Return what `compress` was given.

        Raises:
            EntryError: it is no such payload.
        """
        if not flags & COMPRESSED:
            return payload
        expander = zlib.decompressobj()
        try:
            expanded = expander.decompress(payload, MAX_EXPANDED)
        except zlib.error as exc:
            raise EntryError("not compressed as it says") from exc
        if not expander.eof:
            raise EntryError("not compressed as it says, or far too large")
        return expanded

    def close(self, payload: bytes, bound: bytes) -> bytes:
        """Return `payload` encrypted and signed; `bound` (key, type, times) cannot be exchanged."""
        if self._ciphers:
            name, nonce = self._current, os.urandom(_NONCE)
            sealed = self._ciphers[name].encrypt(nonce, payload, bound + name)
            payload = bytes([len(name)]) + name + nonce + sealed
        if self._signing_key is not None:
            payload = self._signature(payload, bound) + payload
        return payload

    def open(self, payload: bytes, bound: bytes) -> bytes:
        """Return what `close` was given.

        Raises:
            EntryError: it was not closed by a holder of our keys, for these `bound` bytes.
        """
        if self._signing_key is not None:
            signature, payload = payload[:_DIGEST], payload[_DIGEST:]
            if not hmac.compare_digest(signature, self._signature(payload, bound)):
                raise EntryError("not signed with our key")
        return self._decrypt(payload, bound) if self._ciphers else payload

    def _signature(self, payload: bytes, bound: bytes) -> bytes:
        assert self._signing_key is not None
        message = len(bound).to_bytes(4, "big") + bound + payload
        return hmac.digest(self._signing_key, message, sha256)

    def _decrypt(self, payload: bytes, bound: bytes) -> bytes:
        size = payload[0] if payload else 0
        name, rest = payload[1 : 1 + size], payload[1 + size :]
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise EntryError("not encrypted, or with a key that is not given")
        try:
            return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], bound + name)
        except Exception as exc:  # InvalidTag, or a ValueError of what is too short
            raise EntryError("does not authenticate") from exc


def _ciphers(keys: Mapping[str, bytes]) -> "dict[bytes, AESGCM]":
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigError("Cache(encrypt=): give at least one key by its id, as in {'2026': key}")
    for name, key in keys.items():
        if not isinstance(name, str) or not 0 < len(name.encode()) <= 100:
            raise ConfigError("Cache(encrypt=): a key's id is text of 1 to 100 bytes")
        if not isinstance(key, bytes) or len(key) not in _KEY_SIZES:
            raise ConfigError(f"Cache(encrypt=): key {name!r} must be 16, 24 or 32 bytes")
    aead = require(
        "cryptography.hazmat.primitives.ciphers.aead", extra="encrypt", purpose="Cache(encrypt=)"
    )
    return {name.encode(): aead.AESGCM(key) for name, key in keys.items()}
