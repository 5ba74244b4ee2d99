"""Who wants to know when a name's addresses change."""

import logging
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from datakit import events
from datakit.resilience import checks
from datakit.resilience.forks import renew_after_fork

TYPES = ("A", "AAAA")


class Change(NamedTuple):
    """A name's addresses of one type, before and after."""

    name: str
    rdtype: str
    before: frozenset[str]
    after: frozenset[str]


class Watchers:
    """Callbacks by name, and the last set that each name had."""

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)
        self._callbacks: dict[str, tuple[Callable[[Change], object], ...]] = {}
        self._last: dict[tuple[str, str], frozenset[str]] = {}

    def start_anew(self) -> None:
        """Take a lock that no thread of a forked child's parent holds; the watchers stay."""
        self._lock = Lock()

    def add(
        self,
        name: str,
        callback: Callable[[Change], object],
        known: dict[tuple[str, str], frozenset[str]],
    ) -> Callable[[], None]:
        """Call `callback` for the changes of `name`; return what ends that.

        known: the sets that the name has now, where that is known.

        Raises:
            ConfigError: `callback` is no function.
        """
        checks.function("watch", "callback", callback)
        with self._lock:
            self._callbacks[name] = (*self._callbacks.get(name, ()), callback)
            self._last = {**known, **self._last}
        watching = [True]

        def end() -> None:
            with self._lock:
                if not watching:
                    return
                watching.clear()
                rest = list(self._callbacks.get(name, ()))
                rest.remove(callback)
                self._callbacks[name] = tuple(rest)
                if not rest:
                    del self._callbacks[name]
                    for rdtype in TYPES:
                        self._last.pop((name, rdtype), None)

        return end

    def found(self, key: tuple[str, str], records: frozenset[str]) -> None:
        """Take the set that a lookup found; the first one is no change."""
        name, rdtype = key
        if name not in self._callbacks or rdtype not in TYPES:
            return
        with self._lock:
            callbacks = self._callbacks.get(name, ())
            before = self._last.get(key)
            self._last[key] = records
        if before is None or before == records:
            return
        change = Change(name, rdtype, before, records)
        events.emit(events.AddressesChanged, name, rdtype, tuple(sorted(records)))
        for callback in callbacks:
            try:
                callback(change)
            except Exception:  # the lookup is not the callback's to fail
                logging.getLogger("datakit.dns").exception("watch(%r) failed", name)
