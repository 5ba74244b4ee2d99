"""What to say to a server and what its replies mean. Pure; one shell speaks it for threads, one
for tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from datakit.cache.backends.base import AsyncBackend, Backend, Fill, Grant, Lease, RefusedError
from datakit.cache.backends.pool import Pool
from datakit.cache.backends.pool_async import AsyncPool

T = TypeVar("T")


class Request(NamedTuple, Generic[T]):
    """Commands sent in one round trip, and what makes the answer of their replies."""

    commands: list[Any]
    read: Callable[[list[Any]], T]


class Dialect(Protocol):
    """One kind of server. The methods are those of `Backend`."""

    max_value: float

    def get(self, key: str) -> Request[bytes | None]:
        """As `Backend.get`."""
        ...

    def get_many(self, keys: Sequence[str]) -> Request[list[bytes | None]]:
        """As `Backend.get_many`."""
        ...

    def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool
    ) -> Request[list[Grant[bytes]]]:
        """As `Backend.acquire`."""
        ...

    def fill(self, fills: Sequence[Fill[bytes]]) -> Request[list[bool]]:
        """As `Backend.fill`."""
        ...

    def release(self, held: Sequence[tuple[str, Lease]]) -> Request[None]:
        """As `Backend.release`."""
        ...

    def set(self, items: Sequence[tuple[str, bytes, float]]) -> Request[None]:
        """As `Backend.set`."""
        ...

    def delete(self, keys: Sequence[str]) -> Request[None]:
        """As `Backend.delete`."""
        ...


def done(replies: list[Any]) -> None:
    """Raise the first refusal among `replies`."""
    for reply in replies:
        if isinstance(reply, RefusedError):
            raise reply


class RemoteBackend(Backend[bytes]):
    """A server that threads talk to."""

    def __init__(self, dialect: Dialect, pool: Pool) -> None:
        self.max_value = dialect.max_value
        self._dialect = dialect
        self._exchange = pool.exchange
        self._close = pool.close

    def _ask(self, request: Request[T]) -> T:
        return request.read(self._exchange(request.commands))

    def get(self, key: str) -> bytes | None:
        """Return what is stored under `key`, fresh or not."""
        return self._ask(self._dialect.get(key))

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is stored under each key, in one round trip."""
        return self._ask(self._dialect.get_many(keys))

    def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> list[Grant[bytes]]:
        """Take the leases of `keys` for `seconds`, and read them, in one round trip."""
        return self._ask(self._dialect.acquire(keys, seconds, seize))

    def fill(self, fills: Sequence[Fill[bytes]]) -> list[bool]:
        """Store what was loaded, in one round trip; return which leases still held."""
        return self._ask(self._dialect.fill(fills))

    def release(self, held: Sequence[tuple[str, Lease]]) -> None:
        """Give leases back without a value."""
        self._ask(self._dialect.release(held))

    def set(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        """Store values (key, value, seconds) in place of whatever is there."""
        self._ask(self._dialect.set(items))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove what is stored under `keys`, if anything."""
        self._ask(self._dialect.delete(keys))

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._close()


class AsyncRemoteBackend(AsyncBackend[bytes]):
    """A server that tasks talk to."""

    def __init__(self, dialect: Dialect, pool: AsyncPool) -> None:
        self.max_value = dialect.max_value
        self._dialect = dialect
        self._exchange = pool.exchange
        self._close = pool.close

    async def _ask(self, request: Request[T]) -> T:
        return request.read(await self._exchange(request.commands))

    async def get(self, key: str) -> bytes | None:
        """Return what is stored under `key`, fresh or not."""
        return await self._ask(self._dialect.get(key))

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is stored under each key, in one round trip."""
        return await self._ask(self._dialect.get_many(keys))

    async def acquire(
        self, keys: Sequence[str], seconds: float, seize: bool = False
    ) -> list[Grant[bytes]]:
        """Take the leases of `keys` for `seconds`, and read them, in one round trip."""
        return await self._ask(self._dialect.acquire(keys, seconds, seize))

    async def fill(self, fills: Sequence[Fill[bytes]]) -> list[bool]:
        """Store what was loaded, in one round trip; return which leases still held."""
        return await self._ask(self._dialect.fill(fills))

    async def release(self, held: Sequence[tuple[str, Lease]]) -> None:
        """Give leases back without a value."""
        await self._ask(self._dialect.release(held))

    async def set(self, items: Sequence[tuple[str, bytes, float]]) -> None:
        """Store values (key, value, seconds) in place of whatever is there."""
        await self._ask(self._dialect.set(items))

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove what is stored under `keys`, if anything."""
        await self._ask(self._dialect.delete(keys))

    async def close(self) -> None:
        """Close the running loop's connections; the next use opens new ones."""
        await self._close()
