"""What a cached method is, once bound to its object, whatever its kind."""

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, cast


class Bound:
    """Looks like its function, and equals whatever else of it is bound to the same object.

    Made at every call of a method: what is rarely asked for is looked up when it is.
    """

    _function: Any
    _instance: Any
    _plan: Any

    def __init__(self, function: Any, instance: object) -> None:
        self._function = function
        self._instance = instance
        self._plan = None
        self.__doc__ = function.__doc__  # these three, a class has itself
        self.__module__ = function.__module__
        self.__annotations__ = function.__annotations__

    def _open(self) -> Any:
        plan = self._function._plan or self._function._open()
        self._plan = bound = plan.bound_to(self._instance)
        return bound

    if not TYPE_CHECKING:  # which would take every misspelt name for one of the function's

        def __getattr__(self, name: str) -> Any:
            found = getattr(object.__getattribute__(self, "_function"), name)
            return partial(found, self._instance) if name == "__wrapped__" else found

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Bound)
            and self._function is other._function
            and self._instance is other._instance
        )

    def __hash__(self) -> int:
        return hash((self._function, id(self._instance)))

    def __repr__(self) -> str:
        return f"<bound {self._function!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._instance, self._function.__name__)


class OfClass:
    """A cached class method: its function bound to the class, the helpers too.

    `classmethod` itself does that up to Python 3.12; from 3.13 on it binds the call alone.
    """

    def __init__(self, function: Any) -> None:
        update_wrapper(cast("Any", self), function.__wrapped__)
        self._function = function

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._function.__get__(owner or type(instance))
