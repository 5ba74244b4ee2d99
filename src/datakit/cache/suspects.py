"""Keys whose invalidation failed: this process must not serve them from the cache. Pure."""

from threading import Lock
from typing import Final

from datakit.cache.entry import MAX_SKEW, Entry

MAX_SUSPECTS: Final = 10_000
"""Keys remembered one by one."""


class Suspect:
    """One failed invalidation."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Suspects:
    """The keys in doubt. Beyond `MAX_SUSPECTS`, whatever was stored until then is in doubt."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._suspects: dict[str, Suspect] = {}
        self._distrust_stored_until = 0.0
        self.any = False
        """Whether there is doubt about anything: the one look that the path of a hit takes."""

    def add(self, key: str, *, until: float, now: float, wall: float) -> None:
        """Put `key` in doubt until the monotonic second `until`; `now` and `wall` are clocks."""
        with self._lock:
            self.any = True
            if len(self._suspects) >= MAX_SUSPECTS:
                self._make_room(now, wall)
            self._suspects[key] = Suspect(until)

    def _make_room(self, now: float, wall: float) -> None:
        live = {key: suspect for key, suspect in self._suspects.items() if suspect.until > now}
        if len(live) >= MAX_SUSPECTS:
            self._distrust_stored_until = wall + MAX_SKEW
            live = {}
        self._suspects = live

    def find(self, key: str, now: float) -> Suspect | None:
        """Return the doubt about `key` at the monotonic second `now`, or None."""
        suspect = self._suspects.get(key)
        if suspect is None or suspect.until > now:
            return suspect
        self.settle(key, suspect)
        return None

    def settle(self, key: str, suspect: Suspect | None) -> None:
        """End this doubt about `key`; a newer one, of a later invalidation, stays."""
        if suspect is None:
            return
        with self._lock:
            if self._suspects.get(key) is suspect:
                del self._suspects[key]
                self.any = bool(self._suspects) or self._distrust_stored_until > 0

    def distrusts(self, entry: Entry) -> bool:
        """Return whether `entry` is so old that a forgotten doubt may concern it."""
        return entry.stored_at <= self._distrust_stored_until
