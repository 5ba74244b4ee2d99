"""One of a thing for each event loop."""

import asyncio
from collections.abc import Callable
from threading import RLock
from typing import Generic, TypeVar

from datakit.resilience.forks import renew_after_fork

T = TypeVar("T")


class PerLoop(Generic[T]):
    """What `make()` returned for each event loop; that of a closed loop is let go."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._things: dict[asyncio.AbstractEventLoop, T] = {}
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds."""
        self.lock = RLock()  # what the garbage collector ends may come here while we hold it

    def own(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()
        thing = self._things.get(loop)
        if thing is None:
            with self.lock:
                self._things = {k: v for k, v in self._things.items() if not k.is_closed()}
                thing = self._things[loop] = self._make()
        return thing

    def all(self) -> list[T]:
        """Return those of all loops."""
        with self.lock:
            return list(self._things.values())
