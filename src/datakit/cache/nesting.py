"""Loads inside loads: which ones the current code is a part of, and which ones wait for which."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import TypeAlias

from datakit.resilience.forks import renew_after_fork

Load: TypeAlias = tuple[int, str]
"""The id of a cache, and a key."""


class _Block:
    """Code that loads. A task that it starts may outlive it, and is then no part of it any more."""

    __slots__ = ("is_over", "loads", "outer")

    def __init__(self, loads: frozenset[Load], outer: "_Block | None") -> None:
        self.loads = loads
        self.outer = outer
        self.is_over = False


_block: ContextVar[_Block | None] = ContextVar("datakit_cache_loading", default=None)


def _current() -> _Block | None:
    block = _block.get()
    while block is not None and block.is_over:
        block = block.outer
    return block


@contextmanager
def loading(cache: object, keys: Iterable[str]) -> Generator[None, None, None]:
    """Make what the block does a part of the load of `keys` of `cache`."""
    block = _Block(frozenset((id(cache), key) for key in keys), _current())
    token = _block.set(block)
    try:
        yield
    finally:
        block.is_over = True
        _block.reset(token)


def loads() -> frozenset[Load]:
    """Return the loads that the current code is a part of."""
    found: frozenset[Load] = frozenset()
    block = _current()
    while block is not None:
        if not block.is_over:
            found |= block.loads
        block = block.outer
    return found


class Waits:
    """Which loads of this process wait for which others."""

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget all waits; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # what the garbage collector ends may end a wait while we hold it
        self._waits: dict[Load, list[Load]] = {}

    @contextmanager
    def waiting(self, wanted: Load) -> Generator[bool, None, None]:
        """Give whether the block may wait for the load of `wanted`: not when that waits for a load
        that the current code is a part of, since both would wait for ever."""
        mine = loads()
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
