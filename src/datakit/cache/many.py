"""A cached `def` of many ids."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from datakit.cache.bound import Bound
from datakit.cache.plan import FunctionOptions, Plan, many_plan_for

K = TypeVar("K")
V = TypeVar("V")
P = ParamSpec("P")


class CachedMany(Generic[K, V, P]):
    """A function from ids to a dict, whose results are kept one by one."""

    __wrapped__: Callable[Concatenate[list[K], P], Mapping[K, V]]
    __name__: str
    __qualname__: str

    def __init__(
        self,
        fn: Callable[Concatenate[list[K], P], Mapping[K, V]],
        options: FunctionOptions,
    ) -> None:
        update_wrapper(cast("Any", self), fn)
        self._options = options
        self._plan: Plan[V] | None = None

    def __repr__(self) -> str:
        return f"<cached_many {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.__qualname__

    def _open(self) -> Plan[V]:
        self._plan = plan = many_plan_for(self.__wrapped__, self._options)
        return plan

    def __call__(self, ids: Sequence[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Return the values of `ids`, in their order; the function runs once for those missing.

        An id for which the function returns nothing is in no result, and asked for again.

        Raises:
            CacheKeyError: an id has no stable key.
            OverloadError: the cache cannot be asked and too many loads run already.
        """
        plan = self._plan or self._open()
        by_key = {plan.build((one, *args), kwargs): one for one in ids}
        load = self.__wrapped__

        def loader(keys: Sequence[str]) -> dict[str, V]:
            wanted = {by_key[key]: key for key in keys}
            found = load(list(wanted), *args, **kwargs)
            return {key: found[one] for one, key in wanted.items() if one in found}

        values = plan.threads.fetch_many(list(by_key), plan.policy, loader)
        return {one: values[key] for key, one in by_key.items() if key in values}

    def key(self, one: K, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the value of one id is stored.

        Raises:
            CacheKeyError: the id has no stable key.
        """
        return (self._plan or self._open()).build((one, *args), kwargs)

    def peek(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Return what is kept of `ids`, without running the function."""
        plan = self._plan or self._open()
        by_key = {plan.build((one, *args), kwargs): one for one in ids}
        found = plan.threads.read_many(list(by_key), plan.policy)
        return {
            by_key[key]: cast("V", one.value) for key, one in found.items() if one.decision.is_fresh
        }

    def refresh(self, ids: Sequence[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Forget the values of `ids`, then load them all in one run.

        Raises:
            CacheUnavailableError: the server did not take it; see `invalidate`.
        """
        self.invalidate(ids, *args, **kwargs)
        return self(ids, *args, **kwargs)

    def put(self, values: Mapping[K, V], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep `values` by their ids.

        Raises:
            CodecError: a value has no stored form, or a rule of its TTL failed.
            CacheUnavailableError: the server did not take them; see `invalidate`.
        """
        plan = self._plan or self._open()
        stored = {plan.build((one, *args), kwargs): value for one, value in values.items()}
        plan.threads.store("put", stored, plan.policy)

    def invalidate(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the values of `ids`; loads of them under way will not be kept.

        Raises:
            CacheUnavailableError: the server did not take it. This process serves the keys from
                the cache no more until an invalidation gets through or the TTL has passed.
        """
        plan = self._plan or self._open()
        keys = list(dict.fromkeys(plan.build((one, *args), kwargs) for one in ids))
        if keys:
            plan.threads.remove("invalidate", keys, plan.policy.doubtful)


class BoundMany(Bound, CachedMany[K, V, P]):
    """A cached method of one object: `CachedMany` with its first argument given."""


class ManyMethod(Generic[K, V, P]):
    """A method of many ids; an object's attribute is its `CachedMany`."""

    __wrapped__: Callable[..., Mapping[K, V]]
    __qualname__: str

    def __init__(self, fn: Callable[..., Mapping[K, V]], options: FunctionOptions) -> None:
        update_wrapper(cast("Any", self), fn)
        self._options = options
        self._plan: Plan[V] | None = None

    def __repr__(self) -> str:
        return f"<cached_many {self.__module__}.{self.__qualname__}>"

    def _open(self) -> Plan[V]:
        self._plan = plan = many_plan_for(self.__wrapped__, self._options)
        return plan

    def __call__(
        self, instance: Any, ids: Sequence[K], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[K, V]:
        """Return what the `CachedMany` of `instance` does."""
        return self.__get__(instance)(ids, *args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> CachedMany[K, V, P]:
        """Return that of `instance`, which is a class below `@classmethod`."""
        if instance is None:
            return cast("CachedMany[K, V, P]", self)
        return BoundMany(self, instance)
