"""Keys whose invalidation failed: this process must not serve them from the cache."""

from itertools import islice
from threading import RLock
from typing import Final

from datakit.resilience.forks import renew_after_fork

MAX_SUSPECTS: Final = 10_000
"""Keys remembered one by one."""

RETRY_AFTER: Final = 1.0
"""Seconds between two tries to get an invalidation through that nobody's read waits for."""

RETRIED_AT_ONCE: Final = 100


class Suspect:
    """One failed invalidation."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Suspects:
    """The keys in doubt, a bounded number of them."""

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)
        self._suspects: dict[str, Suspect] = {}
        self._next_try = 0.0
        self.any = False
        """Whether there is doubt about anything: the one look that the path of a hit takes."""

    def __len__(self) -> int:
        return len(self._suspects)

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds; the doubts stay."""
        self._lock = RLock()  # what the garbage collector ends may add a key while we hold it

    def add(self, key: str, *, until: float, now: float) -> bool:
        """Put `key` in doubt until the monotonic second `until`; `now` is that clock.

        Return False when all keys had to be forgotten to make room: the caller must then
        distrust whatever was stored so far.
        """
        with self._lock:
            self.any = True
            room = len(self._suspects) < MAX_SUSPECTS or self._drop_expired(now)
            if not room:
                self._suspects = {}
            self._suspects[key] = Suspect(until)
            return room

    def _drop_expired(self, now: float) -> bool:
        self._suspects = {
            k: suspect for k, suspect in self._suspects.items() if suspect.until > now
        }
        return len(self._suspects) < MAX_SUSPECTS

    def find(self, key: str, now: float) -> Suspect | None:
        """Return the doubt about `key` at the monotonic second `now`, or None."""
        suspect = self._suspects.get(key)
        if suspect is None or suspect.until > now:
            return suspect
        self.settle(key, suspect)
        return None

    def due(self, now: float) -> dict[str, Suspect]:
        """Return some that are to be tried again now; the next caller gets none for a second."""
        with self._lock:
            if now < self._next_try:
                return {}
            self._next_try = now + RETRY_AFTER
            self._drop_expired(now)
            self.any = bool(self._suspects)
            return dict(islice(self._suspects.items(), RETRIED_AT_ONCE))

    def settle(self, key: str, suspect: Suspect | None) -> None:
        """End this doubt about `key`; a newer one, of a later invalidation, stays."""
        if suspect is None:
            return
        with self._lock:
            if self._suspects.get(key) is suspect:
                del self._suspects[key]
                self.any = bool(self._suspects)
