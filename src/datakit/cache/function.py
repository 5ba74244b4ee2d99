"""A cached `def`, free or bound to an object."""

from collections.abc import Callable
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
from datakit.cache.recall import recalling

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class CachedFunction(Generic[P, R]):
    """A function whose results are kept. The helpers take the call's arguments."""

    if not TYPE_CHECKING:
        __slots__ = ("__call__", "__dict__", "__weakref__")  # called without a frame of our own

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, R], options: FunctionOptions) -> None:
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
        self._answer_by(recalling(plan, self._whole_way))
        return plan

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the kept result, else run the function once for all who ask, and keep it.

            Raises:
                CacheKeyError: an argument has no stable key; the message names it.
                OverloadError: the cache cannot be asked and too many loads run already.
                ConfigError: the function returned a coroutine; make it an `async def`.
            """
            ...

    def _first_call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self._open()
        return self(*args, **kwargs)

    def _whole_way(self, *args: P.args, **kwargs: P.kwargs) -> R:
        plan = self._plan or self._open()
        key = plan.build(args, kwargs)
        found = plan.threads.read(key, plan.policy)
        if found.decision is HIT:
            return cast("R", found.value)
        loader = partial(self.__wrapped__, *args, **kwargs)
        return plan.threads.follow(key, plan.policy, loader, found)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored.

        Raises:
            CacheKeyError: an argument has no stable key; the message names it.
        """
        return (self._plan or self._open()).build(args, kwargs)

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the kept result without running the function; None when there is none."""
        plan = self._plan or self._open()
        found = plan.threads.read(plan.build(args, kwargs), plan.policy)
        return found.value if found.decision.is_fresh else None

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, keep its result in place of the old one, and return it."""
        plan = self._plan or self._open()
        loader = partial(self.__wrapped__, *args, **kwargs)
        return plan.threads.renew(plan.build(args, kwargs), plan.policy, loader)

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep `value` as the result for these arguments.

        Raises:
            CodecError: it has no stored form, or a rule of its TTL failed.
            CacheUnavailableError: the server did not take it; see `invalidate`.
        """
        plan = self._plan or self._open()
        plan.threads.store("put", {plan.build(args, kwargs): value}, plan.policy)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments; a load of it under way will not be kept.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation gets through or the TTL has passed.
        """
        plan = self._plan or self._open()
        plan.threads.remove("invalidate", (plan.build(args, kwargs),), plan.policy.doubtful)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: "CachedFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "BoundCachedFunction[Q, R]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else BoundCachedFunction(self, instance)


class BoundCachedFunction(Bound, CachedFunction[P, R]):
    """A cached method of one object: `CachedFunction` with its first argument given."""

    if not TYPE_CHECKING:
        __call__ = CachedFunction._whole_way
