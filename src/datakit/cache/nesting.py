"""Loads inside loads: which ones the current code is a part of, and which ones wait for which."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TypeAlias

from datakit.resilience.forks import renew_after_fork

Load: TypeAlias = tuple[int, str]
"""The id of a cache, and a key."""

loading: ContextVar[frozenset[Load]]
loading = ContextVar("datakit_cache_loading", default=frozenset())
"""The loads that the current code is a part of."""


class Waits:
    """Which loads of this process wait for which others."""

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget all waits; called in a forked child, whose threads are gone."""
        self._lock = Lock()
        self._waits: dict[Load, list[Load]] = {}

    @contextmanager
    def waiting(self, wanted: Load) -> Generator[bool, None, None]:
        """Give whether the block may wait for the load of `wanted`: not when that waits for a load
        that the current code is a part of, since both would wait for ever."""
        mine = loading.get()
        with self._lock:
            may_wait = not mine or not self._reaches(wanted, mine)
            if may_wait:
                for load in mine:
                    self._waits.setdefault(load, []).append(wanted)
        try:
            yield may_wait
        finally:
            if may_wait and mine:
                self._end(mine, wanted)

    def _reaches(self, start: Load, ends: frozenset[Load]) -> bool:
        seen: set[Load] = set()
        ahead = [start]
        while ahead:
            load = ahead.pop()
            if load in ends:
                return True
            if load not in seen:
                seen.add(load)
                ahead += self._waits.get(load, ())
        return False

    def _end(self, mine: frozenset[Load], wanted: Load) -> None:
        with self._lock:
            for load in mine:
                wanted_by = self._waits.get(load, [])
                if wanted in wanted_by:  # not in a child forked meanwhile
                    wanted_by.remove(wanted)
                if not wanted_by:
                    self._waits.pop(load, None)


waits = Waits()
"""Those of all caches: a load of one may wait for a load of another."""
