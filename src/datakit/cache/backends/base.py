"""What a cache asks of a store."""

from typing import Protocol

from datakit.cache.entry import Entry


class Backend(Protocol):
    """A store used by threads. Any exception means that it could not be asked.

    Keys are printable ASCII. `seconds` is how long the store keeps the entry, infinity for ever.
    """

    def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not.

        Raises:
            EntryError: it is no entry.
        """
        ...

    def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry` in place of whatever is there."""

    def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""

    def close(self) -> None:
        """Give up what is held; the next use opens it anew."""


class AsyncBackend(Protocol):
    """A store used by tasks: `Backend`, awaitable."""

    async def get(self, key: str) -> Entry | None:
        """Return what is stored under `key`, fresh or not.

        Raises:
            EntryError: it is no entry.
        """
        ...

    async def set(self, key: str, entry: Entry, seconds: float) -> None:
        """Store `entry` in place of whatever is there."""

    async def delete(self, key: str) -> None:
        """Remove what is stored under `key`, if anything."""

    async def close(self) -> None:
        """Give up what is held; the next use opens it anew."""
