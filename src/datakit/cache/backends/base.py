"""What a cache asks of a store."""

from collections.abc import Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

S = TypeVar("S")

Lease: TypeAlias = bytes | int | tuple[int, int]
"""The right to load a key: a token of the store, opaque to everyone else."""


class RefusedError(Exception):
    """The server answered and did not do what it was asked. It can be asked again.

    spent: the connection leads to the wrong node and must not be used again.
    """

    def __init__(self, message: str, *, spent: bool = False) -> None:
        super().__init__(message)
        self.spent = spent


class Grant(NamedTuple, Generic[S]):
    """What lies under a key, and the right to load it where nobody else has that.

    holder: tells the one who has it from those before and after; None where nobody has.
    """

    stored: S | None
    lease: Lease | None
    holder: bytes | int | None = None


class Fill(NamedTuple, Generic[S]):
    """A loaded value: stored only if its lease still holds. seconds: infinity for ever."""

    key: str
    stored: S
    seconds: float
    lease: Lease


class Backend(Protocol[S]):
    """A store used by threads. Any exception means that it could not be asked.

    Keys are printable ASCII. A lease ends with the fill, with its time, and with any `set` or
    `delete` of its key, so that a value loaded before those is never stored after them.
    """

    max_value: float
    """Bytes of the largest value that it takes."""

    def get(self, key: str, /) -> S | None:
        """Return what is stored under `key`, fresh or not."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[S | None]:
        """Return what is stored under each key, in one round trip."""
        ...

    def acquire(self, keys: Sequence[str], seconds: float, seize: bool = False) -> list[Grant[S]]:
        """Take the leases of `keys` for `seconds`, and read them, in one round trip.

        seize: also those that others hold, whose values will not be stored then.
        """
        ...

    def fill(self, fills: Sequence[Fill[S]]) -> list[bool]:
        """Store what was loaded, in one round trip; return which leases still held."""
        ...

    def release(self, held: Sequence[tuple[str, Lease]]) -> list[bool]:
        """Give leases back without a value; return which ones still held."""
        ...

    def set(self, items: Sequence[tuple[str, S, float]]) -> None:
        """Store values (key, value, seconds) in place of whatever is there."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove what is stored under `keys`, if anything."""

    def close(self) -> None:
        """Give up what is held; the next use opens it anew."""


AsyncBackend: TypeAlias = Any
"""A store used by tasks: the methods of `Backend`, awaitable."""

OPERATIONS: Final = ("get", "get_many", "acquire", "fill", "release", "set", "delete")
"""The methods of `Backend` that ask the store."""
