"""What type checkers see of a cached function whose first parameter may be a class.

Below `@classmethod` a checker asks a descriptor for a class's attribute as it does for that of a
plain method, and tells it nothing else: whether the class is the first argument must be known from
the function. A first parameter that takes a class may take anything (`object`, `Any`), so both
ways of calling are left open, and that one argument is not checked.
"""

from collections.abc import Coroutine
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, overload

Q = ParamSpec("Q")
T = TypeVar("T")
V = TypeVar("V", contravariant=True)
Given = TypeVar("Given", covariant=True)
Kept = TypeVar("Kept", covariant=True)
Done = TypeVar("Done", covariant=True)


class FirstLeft(Protocol[Q, Given]):
    """A call whose first argument is still to be given."""

    @overload
    def __call__(self, first: Any, /, *args: Q.args, **kwargs: Q.kwargs) -> Given: ...
    @overload
    def __call__(self, **kwargs: Any) -> Given: ...


class FirstGiven(Protocol[Q, Given]):
    """A call whose first argument is given, where it is a class method's."""

    @overload
    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> Given: ...
    @overload
    def __call__(self, first: Any, /, *args: Q.args, **kwargs: Q.kwargs) -> Given: ...


class ClassAttribute(FirstGiven[Q, Given], Protocol[Q, V, Given, Kept, Done]):
    """What a class has of it, with the helpers of `CachedFunction`."""

    @property
    def __wrapped__(self) -> FirstGiven[Q, Given]: ...
    @property
    def key(self) -> FirstGiven[Q, str]: ...
    @property
    def peek(self) -> FirstGiven[Q, Kept]: ...
    @property
    def refresh(self) -> FirstGiven[Q, Given]: ...
    @property
    def invalidate(self) -> FirstGiven[Q, Done]: ...
    @overload
    def put(self, value: V, /, *args: Q.args, **kwargs: Q.kwargs) -> Done: ...
    @overload
    def put(self, value: V, first: Any, /, *args: Q.args, **kwargs: Q.kwargs) -> Done: ...


class OfAClass(FirstLeft[Q, Given], Protocol[Q, V, Given, Kept, Done]):
    """The function, with the helpers of `CachedFunction`."""

    @property
    def __wrapped__(self) -> FirstLeft[Q, Given]: ...
    @property
    def key(self) -> FirstLeft[Q, str]: ...
    @property
    def peek(self) -> FirstLeft[Q, Kept]: ...
    @property
    def refresh(self) -> FirstLeft[Q, Given]: ...
    @property
    def invalidate(self) -> FirstLeft[Q, Done]: ...
    def put(self, value: V, first: Any, /, *args: Q.args, **kwargs: Q.kwargs) -> Done: ...
    def __get__(
        self, instance: object, owner: type | None = None
    ) -> ClassAttribute[Q, V, Given, Kept, Done]: ...


CachedClassMethod: TypeAlias = OfAClass[Q, T, T, T | None, None]
AsyncCachedClassMethod: TypeAlias = OfAClass[
    Q, T, Coroutine[Any, Any, T], Coroutine[Any, Any, T | None], Coroutine[Any, Any, None]
]
