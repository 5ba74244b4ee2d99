"""A cached `async def`, free or bound to an object."""

from collections.abc import Callable, Coroutine
from functools import partial, update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    cast,
    overload,
)

from datakit.cache.bound import Bound
from datakit.cache.entry import HIT
from datakit.cache.plan import FunctionOptions, Plan, plan_for
from datakit.cache.recall import recalling_async

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class AsyncCachedFunction(Generic[P, R]):
    """A coroutine function whose results are kept. The helpers take the call's arguments."""

    if not TYPE_CHECKING:
        __slots__ = ("__call__", "__dict__", "__weakref__")  # called without a frame of our own

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, Coroutine[Any, Any, R]], options: FunctionOptions) -> None:
        update_wrapper(self, fn)
        self._options = options
        self._plan: Plan[R] | None = None
        self._answer_by(self._first_call)

    def __repr__(self) -> str:
        return f"<cached {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.__qualname__

    def _answer_by(self, call: Callable[..., Any]) -> None:
        setattr(self, "__call__", call)  # noqa: B010 - a slot, of which type checkers know nothing

    def _open(self) -> Plan[R]:
        self._plan = plan = plan_for(self.__wrapped__, self._options)
        self._answer_by(recalling_async(plan, self._whole_way))
        return plan

    if TYPE_CHECKING:

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the kept result, else run the function once for all who ask, and keep it.

            Raises:
                CacheKeyError: an argument has no stable key; the message names it.
                OverloadError: the cache cannot be asked and too many loads run already.
            """
            ...

    async def _first_call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self._open()
        return await self(*args, **kwargs)

    async def _whole_way(self, *args: P.args, **kwargs: P.kwargs) -> R:
        plan = self._plan or self._open()
        key = plan.build(args, kwargs)
        found = await plan.tasks.read(key, plan.policy)
        if found.decision is HIT:
            return cast("R", found.value)
        loader = partial(self.__wrapped__, *args, **kwargs)
        return await plan.tasks.follow(key, plan.policy, loader, found)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored.

        Raises:
            CacheKeyError: an argument has no stable key; the message names it.
        """
        return (self._plan or self._open()).build(args, kwargs)

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the kept result without running the function; None when there is none."""
        plan = self._plan or self._open()
        found = await plan.tasks.read(plan.build(args, kwargs), plan.policy)
        return found.value if found.decision.is_fresh else None

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, keep its result in place of the old one, and return it."""
        plan = self._plan or self._open()
        loader = partial(self.__wrapped__, *args, **kwargs)
        return await plan.tasks.renew(plan.build(args, kwargs), plan.policy, loader)

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep `value` as the result for these arguments.

        Raises:
            CodecError: it has no stored form, or a rule of its TTL failed.
            CacheUnavailableError: the server did not take it; see `invalidate`.
        """
        plan = self._plan or self._open()
        await plan.tasks.store("put", {plan.build(args, kwargs): value}, plan.policy)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments; a load of it under way will not be kept.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation gets through or the TTL has passed.
        """
        plan = self._plan or self._open()
        await plan.tasks.remove("invalidate", (plan.build(args, kwargs),), plan.policy.doubtful)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: "AsyncCachedFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "AsyncBoundCachedFunction[Q, R]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else AsyncBoundCachedFunction(self, instance)


class AsyncBoundCachedFunction(Bound, AsyncCachedFunction[P, R]):
    """A cached method of one object: `AsyncCachedFunction` with its first argument given."""

    if not TYPE_CHECKING:
        __call__ = AsyncCachedFunction._whole_way
