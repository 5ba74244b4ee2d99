"""Redis and Valkey: commands and the sense of replies. Pure.

A lease is a key of its own, `{key}lease`, set with NX and PX to a random token; the braces keep
both in one slot of a cluster. A value is stored by a script that looks at the token first.
"""

import math
import secrets
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from datakit.cache.backends.base import Fill, Grant, Lease, RefusedError
from datakit.cache.backends.dialect import Request, done

Command: TypeAlias = tuple[str | bytes | int, ...]

FOREIGN: Final = b"\xc1"
"""Stands for what GET refuses to return: a list or a hash of another program. It is no value in any
form: neither msgpack nor JSON nor a pickle begins so."""

_STORE: Final = (
    "if ARGV[2]=='0' then redis.call('SET',KEYS[1],ARGV[1]) "
    "else redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) end "
    "redis.call('DEL',KEYS[2]) return 1"
)
_FILL: Final = "if redis.call('GET',KEYS[2])~=ARGV[3] then return 0 end " + _STORE
_RELEASE: Final = (
    "if redis.call('GET',KEYS[1])~=ARGV[1] then return 0 end return redis.call('DEL',KEYS[1])"
)


class RedisDialect:
    """Speaks to one server. The methods are those of `Backend`."""

    max_value = 512.0 * 1024 * 1024
    """Source: Redis documentation, "Strings"."""

    def get(self, key: str) -> Request[bytes | None]:
        """GET, and nothing else."""
        return Request([("GET", key)], _first)

    def get_many(self, keys: Sequence[str]) -> Request[list[bytes | None]]:
        """One MGET, which returns nothing for what is no string."""
        return Request([("MGET", *keys)], _all)

    def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> Request[list[Grant[bytes]]]:
        """SET the leases, then GET: what a former holder has stored is seen, and who has them."""
        token = secrets.token_hex(8).encode()
        condition = () if seize else ("NX",)
        commands: list[Command] = []
        for key in keys:
            commands.append(("SET", _lease(key), token, "PX", _milliseconds(seconds), *condition))
            commands.append(("GET", key))
            commands.append(("GET", _lease(key)))

        def read(replies: list[Any]) -> list[Grant[bytes]]:
            won, stored, holders = replies[::3], replies[1::3], replies[2::3]
            done([*won, *holders])
            return [
                Grant(_string(value), None if reply is None else token, holder)
                for reply, value, holder in zip(won, stored, holders, strict=True)
            ]

        return Request(commands, read)

    def fill(self, fills: Sequence[Fill[bytes]]) -> Request[list[bool]]:
        """Compare the token and store, in one script for each."""
        return Request([_fill_command(fill) for fill in fills], _flags)

    def release(self, held: Sequence[tuple[str, Lease]]) -> Request[list[bool]]:
        """Remove the leases that still hold."""
        return Request([("EVAL", _RELEASE, 1, _lease(key), _token(t)) for key, t in held], _flags)

    def set(self, items: Sequence[tuple[str, bytes, float]]) -> Request[None]:
        """SET, and end the lease, in one script for each: a load that begins meanwhile is not
        stored either. DEL comes first, which a demoted primary refuses in words of its own."""
        leases = [_lease(key) for key, _, _ in items]
        return Request([("DEL", *leases), *(_store(_STORE, *item) for item in items)], done)

    def delete(self, keys: Sequence[str]) -> Request[None]:
        """One DEL of values and leases."""
        return Request([("DEL", *keys, *map(_lease, keys))], done)


def _lease(key: str) -> str:
    return f"{{{key}}}lease"


def _token(lease: Lease) -> bytes:
    assert isinstance(lease, bytes)
    return lease


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _store(script: str, key: str, raw: bytes, seconds: float, *more: bytes) -> Command:
    kept = 0 if seconds == math.inf else _milliseconds(seconds)
    return ("EVAL", script, 2, key, _lease(key), raw, kept, *more)


def _fill_command(fill: Fill[bytes]) -> Command:
    return _store(_FILL, fill.key, fill.stored, fill.seconds, _token(fill.lease))


def _string(reply: Any) -> bytes | None:
    if isinstance(reply, RefusedError):
        if str(reply).startswith("WRONGTYPE"):
            return FOREIGN
        raise reply
    return reply if reply is None or isinstance(reply, bytes) else FOREIGN


def _first(replies: list[Any]) -> bytes | None:
    return _string(replies[0])


def _all(replies: list[Any]) -> list[bytes | None]:
    done(replies)
    return [_string(value) for value in replies[0]]


def _flags(replies: list[Any]) -> list[bool]:
    done(replies)
    return [bool(reply) for reply in replies]
