"""A cached `def`, and the same bound to an object."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from datakit.cache.core import MISS, UNASKED
from datakit.cache.plan import Options, Plan, plan_for
from datakit.cache.ttl import longest

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class CachedFunction(Generic[P, R]):
    """A function whose results are kept. The helpers take the call's arguments."""

    __wrapped__: Callable[P, R]

    def __init__(self, fn: Callable[P, R], options: Options) -> None:
        update_wrapper(self, fn)
        self._options = options
        self._plan: Plan[R] | None = None

    def _open(self) -> Plan[R]:
        self._plan = plan = plan_for(self.__wrapped__, self._options)
        return plan

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the kept result, else run the function once for all who ask, and keep it.

        Raises:
            CacheKeyError: an argument has no stable key; the message names it.
            OverloadError: the cache cannot be asked and too many loads run already.
        """
        plan = self._plan or self._open()
        key = plan.build(args, kwargs)
        seen = plan.loads.finished
        found = plan.threads.read(key, plan.codec)
        if found is not MISS and found is not UNASKED:
            return found
        loader = partial(self.__wrapped__, *args, **kwargs)
        return plan.threads.load(key, plan.codec, plan.ttl, loader, found, seen)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored.

        Raises:
            CacheKeyError: an argument has no stable key; the message names it.
        """
        return (self._plan or self._open()).build(args, kwargs)

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the kept result without running the function; None when there is none."""
        plan = self._plan or self._open()
        found = plan.threads.read(plan.build(args, kwargs), plan.codec)
        return None if found is MISS or found is UNASKED else found

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, keep its result in place of the old one, and return it."""
        plan = self._plan or self._open()
        loader = partial(self.__wrapped__, *args, **kwargs)
        return plan.threads.renew(plan.build(args, kwargs), plan.codec, plan.ttl, loader)

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep `value` as the result for these arguments.

        Raises:
            CodecError: it has no stored form.
            CacheUnavailableError: the server did not take it; see `invalidate`.
        """
        plan = self._plan or self._open()
        plan.threads.store(plan.build(args, kwargs), plan.codec, plan.ttl, value)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments; a load of it under way will not be kept.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the key from
                the cache no more until an invalidation gets through or the TTL has passed.
        """
        plan = self._plan or self._open()
        plan.threads.remove(plan.build(args, kwargs), longest(plan.ttl))

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: "CachedFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "BoundCachedFunction[Q, R]": ...
    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else BoundCachedFunction(self, instance)


class BoundCachedFunction(Generic[P, R]):
    """A cached method of one object: `CachedFunction` with its first argument given."""

    def __init__(self, function: CachedFunction[..., R], instance: object) -> None:
        self._function = function
        self._instance = instance
        self.__wrapped__: Callable[P, R] = partial(function.__wrapped__, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the kept result, else run the method once for all who ask, and keep it."""
        return self._function(self._instance, *args, **kwargs)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored."""
        return self._function.key(self._instance, *args, **kwargs)

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the kept result without running the method; None when there is none."""
        return self._function.peek(self._instance, *args, **kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the method now, keep its result in place of the old one, and return it."""
        return self._function.refresh(self._instance, *args, **kwargs)

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep `value` as the result for these arguments."""
        self._function.put(value, self._instance, *args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments; a load of it under way will not be kept."""
        self._function.invalidate(self._instance, *args, **kwargs)
