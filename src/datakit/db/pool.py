"""SQLAlchemy's pools, whose wait for a free connection ends with the enclosing `deadline`."""

from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

from datakit.resilience import deadline


class _Bounded:
    """Makes `_timeout`, which SQLAlchemy's queue pools read before each wait, what is left."""

    _pool_timeout: float

    @property
    def _timeout(self) -> float:
        left = deadline.remaining()
        return self._pool_timeout if left is None else min(self._pool_timeout, left)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._pool_timeout = seconds

    def recreate(self) -> "_Bounded":
        pool: _Bounded = super().recreate()  # type: ignore[misc]
        pool._timeout = self._pool_timeout
        return pool


class BoundedPool(_Bounded, QueuePool):  # type: ignore[misc]
    """The pool of an Engine."""


class AsyncBoundedPool(_Bounded, AsyncAdaptedQueuePool):  # type: ignore[misc]
    """The pool of an AsyncEngine."""
