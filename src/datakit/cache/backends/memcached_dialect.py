"""Memcached's meta commands and the sense of their replies. Pure.

Own code for threads and tasks alike: pymemcache has no asyncio, and its `raw_command` reads up to a
token that a value may hold, so that `mg` cannot be spoken through it, nor anything pipelined; of
the asyncio clients aiomcache and emcache neither knows the meta commands.

A lease is two numbers. The lease proper is an item of its own that `ms` adds for a time, so that it
ends when its holder dies. What makes an invalidation win is the value's own CAS number: an absent
value is made an empty item first (`mg` with N), and `ms` with C stores only where nothing was
stored or deleted since. Source: memcached's protocol.txt, "Meta Commands".
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from datakit._clock import Clock
from datakit.cache.backends.base import Fill, Grant, Lease, RefusedError
from datakit.cache.backends.dialect import Request, done

ITEM_LIMIT: Final = 1024 * 1024 - 512
"""Bytes of the largest value: an item of 1 MB less the key and the server's header."""

_DATE_LIMIT: Final = 30 * 86_400
"""Larger TTLs are read as a date. Source: memcached's protocol.txt, "Expiration times"."""

_LAST_DATE: Final = 2**31 - 1
"""A later one is taken for one long past (seen with 1.6.18): for ever comes nearer to it."""

_LONGEST_LINE: Final = 2048
"""Bytes of a first line without its end, far more than any reply has."""

_REFUSALS: Final = (b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR")


class Reply(NamedTuple):
    """One reply: its code, its flags, and the value that came with VA."""

    code: bytes
    flags: list[bytes]
    value: bytes | None


class NonsenseError(OSError):
    """The server does not speak memcached's protocol."""


class Replies:
    """Cuts a stream of bytes into replies. `rest` holds what has come of the next one."""

    def __init__(self) -> None:
        self.rest = b""

    def after(self, data: bytes) -> list[Reply | RefusedError]:
        """Return the replies that are whole now that `data` came.

        Raises:
            NonsenseError: one is none of memcached's.
        """
        buffer = self.rest + data if self.rest else data
        replies: list[Reply | RefusedError] = []
        begin = 0
        while (end := buffer.find(b"\r\n", begin)) >= 0:
            code, *flags = buffer[begin:end].split(b" ")
            end += 2
            if code == b"VA":
                if not flags or not flags[0].isdigit():
                    raise NonsenseError("a value without a size")
                value_end = end + int(flags[0])
                if len(buffer) < value_end + 2:
                    break
                replies.append(Reply(code, flags, buffer[end:value_end]))
                end = value_end + 2
            elif code in _REFUSALS:
                replies.append(RefusedError(code.decode()))
            elif len(code) == 2 and code.isalpha():
                replies.append(Reply(code, flags, None))
            else:
                raise NonsenseError("no reply of memcached")
            begin = end
        else:
            if len(buffer) - begin > _LONGEST_LINE:
                raise NonsenseError("a reply without an end")
        self.rest = buffer[begin:]
        return replies

    def check_end(self, commands: int, replies: int) -> None:
        """Refuse what came beyond a reply for each command: the next exchange would take it.

        Raises:
            NonsenseError: there is something.
        """
        if replies != commands or self.rest:
            raise NonsenseError("more replies than commands")


class MemcachedDialect:
    """Speaks to one server. The methods are those of `Backend`."""

    max_value = float(ITEM_LIMIT)

    def __init__(self, clock: Clock) -> None:
        self._wall = clock.wall

    def get(self, key: str) -> Request[bytes | None]:
        """One `mg`."""
        return Request([b"mg %b v\r\n" % key.encode()], _first)

    def get_many(self, keys: Sequence[str]) -> Request[list[bytes | None]]:
        """One `mg` a key, in one round trip."""
        return Request([b"mg %b v\r\n" % key.encode() for key in keys], _values)

    def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> Request[list[Grant[bytes]]]:
        """Add the lease, then read the value and its CAS number, making an item of it if need be.

        To seize is to append nothing to the value, which renews its CAS number for all others.
        """
        life = self._ttl(seconds)
        mode = b"" if seize else b" ME"
        commands: list[bytes] = []
        for key in keys:
            name = key.encode()
            commands.append(b"ms %b 0 T%d%b c\r\n\r\n" % (_lease(name), life, mode))
            if seize:
                commands.append(b"ms %b 0 MA\r\n\r\n" % name)
            commands.append(b"mg %b v c N%d\r\n" % (name, life + 1))
            commands.append(b"mg %b c\r\n" % _lease(name))
        step = 4 if seize else 3

        def read(replies: list[Any]) -> list[Grant[bytes]]:
            done(replies)
            ends = range(step, len(replies) + 1, step)
            return [_grant(replies[i - step], replies[i - 2], replies[i - 1]) for i in ends]

        return Request(commands, read)

    def fill(self, fills: Sequence[Fill[bytes]]) -> Request[list[bool]]:
        """Store where the CAS number is still the lease's, and end the lease."""
        commands: list[bytes] = []
        for key, raw, seconds, lease in fills:
            name, (cas, lease_cas) = key.encode(), _numbers(lease)
            life = self._ttl(seconds)
            commands.append(b"ms %b %d T%d C%d\r\n%b\r\n" % (name, len(raw), life, cas, raw))
            commands.append(b"md %b C%d\r\n" % (_lease(name), lease_cas))
        return Request(commands, lambda replies: _flags(replies[::2]))

    def release(self, held: Sequence[tuple[str, Lease]]) -> Request[list[bool]]:
        """Remove the leases that still hold."""
        names = [(_lease(key.encode()), _numbers(lease)[1]) for key, lease in held]
        return Request([b"md %b C%d\r\n" % pair for pair in names], _flags)

    def set(self, items: Sequence[tuple[str, bytes, float]]) -> Request[None]:
        """Store, which gives the value another CAS number, and end the leases."""
        commands: list[bytes] = []
        for key, raw, seconds in items:
            name = key.encode()
            commands.append(b"ms %b %d T%d\r\n%b\r\n" % (name, len(raw), self._ttl(seconds), raw))
            commands.append(b"md %b\r\n" % _lease(name))
        return Request(commands, done)

    def delete(self, keys: Sequence[str]) -> Request[None]:
        """Remove values and leases."""
        values = [key.encode() for key in keys]
        return Request([b"md %b\r\n" % name for name in (*values, *map(_lease, values))], done)

    def _ttl(self, seconds: float) -> int:
        """Return whole seconds, 2 at least since 1 may expire at once; 0 is for ever."""
        if seconds == math.inf:
            return 0
        whole = max(2, math.ceil(seconds))
        if whole <= _DATE_LIMIT:
            return whole
        date = math.ceil(self._wall() + seconds)
        return date if date <= _LAST_DATE else 0


def _lease(name: bytes) -> bytes:
    return b"{%b}lease" % name


def _numbers(lease: Lease) -> tuple[int, int]:
    assert isinstance(lease, tuple)
    return lease


def _cas(reply: Reply) -> int:
    for flag in reply.flags:
        if flag[:1] == b"c":
            return int(flag[1:])
    raise NonsenseError("a reply without its CAS number")


def _value(reply: Reply | RefusedError) -> bytes | None:
    """Return a value; an empty one marks a key that is being loaded."""
    if isinstance(reply, RefusedError):
        raise reply
    if reply.code not in (b"VA", b"EN"):
        raise NonsenseError("no answer to mg")
    return reply.value or None


def _grant(lease: Reply, item: Reply, held: Reply) -> Grant[bytes]:
    stored = _value(item)
    won = lease.code == b"HD" and item.code == b"VA"
    holder = _cas(held) if held.code == b"HD" else None
    return Grant(stored, (_cas(item), _cas(lease)) if won else None, holder)


def _flags(replies: list[Any]) -> list[bool]:
    done(replies)
    return [reply.code == b"HD" for reply in replies]


def _first(replies: list[Any]) -> bytes | None:
    return _value(replies[0])


def _values(replies: list[Any]) -> list[bytes | None]:
    return [_value(reply) for reply in replies]
