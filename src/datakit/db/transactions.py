"""Transactions whose body runs again when, and only when, nothing of it can be committed.

for tx in transaction(engine):
    with tx as conn:
        conn.execute(...)
"""

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from datakit.db.bind import is_async
from datakit.db.transaction_async import AsyncTransaction
from datakit.db.transaction_base import BeginOption
from datakit.db.transaction_sync import Transaction
from datakit.resilience import RetryPolicy

S = TypeVar("S", bound=Session)
AS = TypeVar("AS", bound=AsyncSession)
P = ParamSpec("P")
T = TypeVar("T")


@overload
def transaction(
    bind: Engine,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    **begin_options: BeginOption,
) -> Transaction[Connection]: ...
@overload
def transaction(
    bind: sessionmaker[S],
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    **begin_options: BeginOption,
) -> Transaction[S]: ...
@overload
def transaction(
    bind: AsyncEngine,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    **begin_options: BeginOption,
) -> AsyncTransaction[AsyncConnection]: ...
@overload
def transaction(
    bind: async_sessionmaker[AS],
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    **begin_options: BeginOption,
) -> AsyncTransaction[AS]: ...
def transaction(
    bind: Any,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    **begin_options: BeginOption,
) -> Transaction[Any] | AsyncTransaction[Any]:
    """Return the attempts of one transaction, to be iterated and entered.

    The body runs again after a lost link or a moved writer until the policy's deadline, and
    after a conflict `retry.attempts` times in all. Its own exceptions go straight up. It must
    reach its end for that: with a `return` or `break` inside the `with` block or after it, in
    the loop, a failure that would have been retried goes up instead.

    bind: an Engine (yields a Connection), a sessionmaker (a Session), or their asyncio forms,
    used with `async for` and `async with`. retry: None for the engine's policy. idempotent:
    running a body again that was committed does no harm. begin_options: SQLAlchemy's execution
    options for the transaction, such as isolation_level or postgresql_readonly.

    Raises, from the `with` block:
        CommitUnknownError: the link was lost during COMMIT and `idempotent` was not said.
        InvalidRequestError: a transaction on the same engine is open in this context.
        sqlalchemy.exc.DBAPIError: the database's error, noted with what was tried.
    """
    kind = AsyncTransaction if is_async(bind) else Transaction
    return kind(bind, retry, idempotent, begin_options)


@overload
def run_transaction(
    bind: Engine, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
@overload
def run_transaction(
    bind: sessionmaker[S], fn: Callable[Concatenate[S, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
@overload
def run_transaction(
    bind: AsyncEngine,
    fn: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Awaitable[T]: ...
@overload
def run_transaction(
    bind: async_sessionmaker[AS],
    fn: Callable[Concatenate[AS, P], Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Awaitable[T]: ...
def run_transaction(bind: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return `fn(conn, *args, **kwargs)`, run in a transaction; awaitable on an asyncio bind.

    `fn` runs again as the body of `transaction` does, and its last result counts.

    Raises: as `transaction`.
    """
    run = _run_async if is_async(bind) else _run_sync
    return run(bind, fn, args, kwargs)


def _run_sync(bind: Any, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    results: list[T] = []
    for tx in transaction(bind):
        with tx as subject:
            results.append(fn(subject, *args, **kwargs))
    return results[-1]


async def _run_async(
    bind: Any, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    results: list[T] = []
    async for tx in transaction(bind):
        async with tx as subject:
            results.append(await fn(subject, *args, **kwargs))
    return results[-1]
