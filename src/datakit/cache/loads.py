"""Which keys are being loaded now, so that an invalidation wins over a load begun before it."""

from threading import Lock

from datakit.resilience.forks import renew_after_fork


class Load:
    """One generation of loading a key. Callers that came before an invalidation share it."""

    __slots__ = ("key", "users", "void")

    def __init__(self, key: str) -> None:
        self.key = key
        self.users = 0
        self.void = False
        """The key was invalidated or replaced meanwhile: what was loaded must not be stored."""

    def __repr__(self) -> str:
        return self.key


class Loads:
    """The loads under way in this process: as many as there are callers waiting, no more."""

    def __init__(self) -> None:
        self.finished = 0
        """Grows after each load; unchanged means that no store was missed since it was read."""
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget the loads under way; called in a forked child, whose threads are gone."""
        self._lock = Lock()
        self._current: dict[str, Load] = {}

    def join(self, key: str) -> Load:
        """Return the current load of `key`; `leave` must follow."""
        with self._lock:
            load = self._current.setdefault(key, Load(key))
            load.users += 1
            return load

    def leave(self, load: Load) -> None:
        """End what `join` began."""
        with self._lock:
            load.users -= 1
            if load.users == 0 and self._current.get(load.key) is load:
                del self._current[load.key]

    def finish(self) -> None:
        """Note that a value was loaded and, where possible, stored."""
        with self._lock:
            self.finished += 1

    def void(self, key: str) -> None:
        """Keep the loads of `key` begun so far from being stored, and later callers from them."""
        with self._lock:
            load = self._current.pop(key, None)
            if load is not None:
                load.void = True
