"""SQLAlchemy's pools, which look at a connection before they hand it out.

The wait for a free one ends with the enclosing `deadline`. SQLAlchemy's own `checkout` event, which
does the same for any other pool, costs more than the look.
"""

from collections.abc import Callable
from time import monotonic, time

from sqlalchemy.exc import DisconnectionError, TimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool

from datakit.db.checkout import PEER, Peer
from datakit.resilience.deadlines import current, deadline, is_callers, over


class LookingPool(QueuePool):
    """The pool of an Engine.

    look: called with a connection that has not been looked at for a moment; it raises
        DisconnectionError when it must be replaced.
    """

    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"
    look: Callable[[ConnectionPoolEntry, Peer], object] | None = None
    _pool_timeout: float

    @property
    def _timeout(self) -> float:
        """What SQLAlchemy's queue pools read before each wait."""
        if current.get() is None:
            return self._pool_timeout
        left = deadline.remaining()
        return self._pool_timeout if left is None else min(self._pool_timeout, left)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._pool_timeout = seconds

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            entry = super()._do_get()
        except TimeoutError as exc:
            if is_callers() and self._timeout < self._pool_timeout:
                raise over("waiting for a free connection of the pool") from exc
            raise
        peer: Peer | None = entry.info.get(PEER)
        if peer is None or (monotonic() < peer.fresh_until and time() < peer.fresh_until_wall):
            return entry
        try:
            if self.look is not None:
                self.look(entry, peer)
        except DisconnectionError as exc:
            entry.invalidate(exc)  # SQLAlchemy connects anew, as for one that is too old
        except BaseException as exc:
            entry.invalidate(exc)
            self._do_return_conn(entry)
            raise
        return entry

    def recreate(self) -> "LookingPool":
        """Return an empty pool like this one."""
        pool = super().recreate()
        assert isinstance(pool, LookingPool)
        pool._timeout = self._pool_timeout
        pool.look = self.look
        return pool


class AsyncLookingPool(LookingPool, AsyncAdaptedQueuePool):
    """The pool of an AsyncEngine."""
