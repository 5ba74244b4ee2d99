"""From what to say to a server to a backend that says it: for threads, and for tasks.

A dialect has the methods of `Backend`. Each returns a `Request` and does nothing else.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from datakit.cache.backends.base import OPERATIONS, RefusedError
from datakit.cache.backends.pool import Pool
from datakit.cache.backends.pool_async import AsyncPool

T = TypeVar("T")


WHOLE: Final = ("set", "delete")
"""Operations that users ask for: no load follows that would need a share of their time."""


MOST_AT_ONCE: Final = 1000
"""Keys of one exchange: what is asked of more is asked in several, each in its own time."""


class Request(NamedTuple, Generic[T]):
    """Commands sent in one round trip, and what makes the answer of their replies."""

    commands: list[Any]
    read: Callable[[list[Any]], T]


def done(replies: list[Any]) -> None:
    """Raise the first refusal among `replies`."""
    for reply in replies:
        if isinstance(reply, RefusedError):
            raise reply


class RemoteBackend:
    """A server that threads talk to: a `Backend`."""

    def __init__(self, dialect: Any, pool: Pool) -> None:
        self.max_value = dialect.max_value
        self.close = pool.close
        for name in OPERATIONS:
            exchange = partial(pool.exchange, whole=True) if name in WHOLE else pool.exchange
            operation = _operation(getattr(dialect, name), exchange)
            setattr(self, name, operation if name == "get" else _in_batches(operation))


def _operation(ask: Callable[..., Request[T]], exchange: Callable[..., Any]) -> Callable[..., T]:
    def operation(*args: Any) -> T:
        commands, read = ask(*args)
        return read(exchange(commands))

    return operation


def _in_batches(operation: Callable[..., Any]) -> Callable[..., Any]:
    def batched(keys: Sequence[Any], *args: Any) -> Any:
        if len(keys) <= MOST_AT_ONCE:
            return operation(keys, *args)
        return [one for batch in _batches(keys) for one in operation(batch, *args) or ()]

    return batched


def _batches(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), MOST_AT_ONCE):
        yield keys[start : start + MOST_AT_ONCE]


class AsyncRemoteBackend:
    """A server that tasks talk to: a `Backend`, awaitable."""

    def __init__(self, dialect: Any, pool: AsyncPool) -> None:
        self.max_value = dialect.max_value
        self.close = pool.close
        for name in OPERATIONS:
            exchange = partial(pool.exchange, whole=True) if name in WHOLE else pool.exchange
            operation = _async_operation(getattr(dialect, name), exchange)
            setattr(self, name, operation if name == "get" else _in_async_batches(operation))


def _async_operation(
    ask: Callable[..., Request[T]], exchange: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[T]]:
    async def operation(*args: Any) -> T:
        commands, read = ask(*args)
        return read(await exchange(commands))

    return operation


def _in_async_batches(operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def batched(keys: Sequence[Any], *args: Any) -> Any:
        if len(keys) <= MOST_AT_ONCE:
            return await operation(keys, *args)
        return [one for batch in _batches(keys) for one in await operation(batch, *args) or ()]

    return batched
