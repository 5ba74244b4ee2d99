"""Who wants to know when a name's addresses change."""

import logging
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from datakit import events

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
        self._lock = Lock()
        self._callbacks: dict[str, tuple[Callable[[Change], object], ...]] = {}
        self._last: dict[tuple[str, str], frozenset[str]] = {}

    def add(self, name: str, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Call `callback` for the changes of `name`; return what ends that."""
        with self._lock:
            self._callbacks[name] = (*self._callbacks.get(name, ()), callback)

        def end() -> None:
            with self._lock:
                rest = list(self._callbacks.get(name, ()))
                if callback in rest:
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
