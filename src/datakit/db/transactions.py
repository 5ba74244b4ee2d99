"""Transactions whose body runs again when, and only when, nothing of it can be committed.

for tx in transaction(engine):
    with tx as conn:
        conn.execute(...)
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from datakit.db.begin import BeginOption
from datakit.db.bind import is_async
from datakit.db.transaction_async import AsyncTransaction
from datakit.db.transaction_sync import Transaction
from datakit.resilience import RetryPolicy

S = TypeVar("S", bound=Session)
AS = TypeVar("AS", bound=AsyncSession)
C = TypeVar("C", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keywords of `transaction`."""

    retry: RetryPolicy | None
    idempotent: bool
    exactly_once: bool
    isolation_level: str
    read_only: bool
    deferrable: bool
    postgresql_readonly: bool
    postgresql_deferrable: bool


@overload
def transaction(bind: Engine, **options: Unpack[Options]) -> Transaction[Connection]: ...
@overload
def transaction(
    bind: sessionmaker[S] | scoped_session[S], **options: Unpack[Options]
) -> Transaction[S]: ...
@overload
def transaction(
    bind: AsyncEngine, **options: Unpack[Options]
) -> AsyncTransaction[AsyncConnection]: ...
@overload
def transaction(
    bind: async_sessionmaker[AS] | async_scoped_session[AS], **options: Unpack[Options]
) -> AsyncTransaction[AS]: ...
def transaction(
    bind: Any,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
    exactly_once: bool = False,
    **begin_options: BeginOption,
) -> Transaction[Any] | AsyncTransaction[Any]:
    """Return the attempts of one transaction, to be iterated and entered.

    The body runs again after a lost link or a moved writer until the policy's deadline, and
    after a conflict `retry.attempts` times in all. Its own exceptions go straight up. It must
    reach its end for that: with a `return` or `break` inside the `with` block or after it, in
    the loop, a failure that would have been retried goes up instead.

    bind: an Engine (yields a Connection), a sessionmaker (a Session), a scoped_session (a new
    Session, which is the scope's inside the block), or their asyncio forms, used with `async for`
    and `async with`. retry: None for the engine's policy.
    idempotent: running a body again that was committed does no harm.
    exactly_once: a row in the table `datakit_commits`, written in the same transaction, settles
    what became of a COMMIT whose answer was lost. It costs a round trip; create the table with
    `datakit.db.exactly_once.create_table(engine)`.
    begin_options: `isolation_level`, `read_only`, `deferrable` (PostgreSQL), or others of
    SQLAlchemy's execution options.

    Raises, from the `with` block:
        CommitUnknownError: the link was lost during COMMIT and neither `idempotent` nor
            `exactly_once` was said, or nobody could be asked until the deadline.
        InvalidRequestError: a transaction on the same engine is open in this context.
        sqlalchemy.exc.DBAPIError: the database's error, noted with what was tried.
    """
    kind = AsyncTransaction if is_async(bind) else Transaction
    return kind(bind, begin_options, retry, idempotent, exactly_once)


@overload
def run_transaction(
    bind: Engine, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
@overload
def run_transaction(
    bind: sessionmaker[S] | scoped_session[S],
    fn: Callable[Concatenate[S, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
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
    bind: async_sessionmaker[AS] | async_scoped_session[AS],
    fn: Callable[Concatenate[AS, P], Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Awaitable[T]: ...
def run_transaction(bind: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return `fn(conn, *args, **kwargs)`, run in a transaction; awaitable on an asyncio bind.

    `fn` runs again as the body of `transaction` does, and its last result counts. For options
    decorate it with `transactional`.

    Raises: as `transaction`.
    """
    return transactional(bind)(fn)(*args, **kwargs)


class _Transactional(Protocol[C]):
    def __call__(self, fn: Callable[Concatenate[C, P], T], /) -> Callable[P, T]: ...


@overload
def transactional(bind: Engine, **options: Unpack[Options]) -> _Transactional[Connection]: ...
@overload
def transactional(
    bind: sessionmaker[S] | scoped_session[S], **options: Unpack[Options]
) -> _Transactional[S]: ...
@overload
def transactional(
    bind: AsyncEngine, **options: Unpack[Options]
) -> _Transactional[AsyncConnection]: ...
@overload
def transactional(
    bind: async_sessionmaker[AS] | async_scoped_session[AS], **options: Unpack[Options]
) -> _Transactional[AS]: ...
def transactional(bind: Any, **options: Any) -> Any:
    """Return a decorator that runs a function in a transaction and passes the connection first.

    @transactional(engine, exactly_once=True)
    def pay(conn, amount): ...

    pay(7)

    Decorate `async def` for an asyncio bind. The options are those of `transaction`.

    Raises: as `transaction`.
    """
    decorate = _asynchronous if is_async(bind) else _synchronous

    def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
        return wraps(fn)(decorate(bind, options, fn))

    return decorator


def _synchronous(bind: Any, options: dict[str, Any], fn: Callable[..., T]) -> Callable[..., T]:
    def run(*args: Any, **kwargs: Any) -> T:
        results: list[T] = []
        for tx in transaction(bind, **options):
            with tx as subject:
                results.append(fn(subject, *args, **kwargs))
        return results[-1]

    return run


def _asynchronous(
    bind: Any, options: dict[str, Any], fn: Callable[..., Awaitable[T]]
) -> Callable[..., Awaitable[T]]:
    async def run(*args: Any, **kwargs: Any) -> T:
        results: list[T] = []
        async for tx in transaction(bind, **options):
            async with tx as subject:
                results.append(await fn(subject, *args, **kwargs))
        return results[-1]

    return run
