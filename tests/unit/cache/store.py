"""A store that fails on command."""

from collections.abc import Callable, Sequence
from typing import Any

from datakit.cache.backends.base import Fill, Grant
from datakit.cache.backends.memory import MemoryBackend
from datakit.cache.entry import Entry
from datakit.testing import FakeClock


class Broken(Exception):
    """What a driver raises."""


class Store(MemoryBackend):
    """Memory that fails on command, or does something before it stores."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(100, clock=clock)
        self.broken = False
        self.before_fill: Callable[[], None] = lambda: None
        read = self.get

        def get(key: str) -> Entry | None:
            self.check()
            return read(key)

        self.get = get

    def check(self) -> None:
        if self.broken:
            raise Broken

    def acquire(self, keys: Sequence[str], *args: Any, **kwargs: Any) -> list[Grant[Entry]]:
        self.check()
        return super().acquire(keys, *args, **kwargs)

    def fill(self, fills: Sequence[Fill[Entry]]) -> list[bool]:
        self.check()
        self.before_fill()
        return super().fill(fills)

    def set(self, items: Sequence[tuple[str, Entry, float]]) -> None:
        self.check()
        super().set(items)

    def delete(self, keys: Sequence[str]) -> None:
        self.check()
        super().delete(keys)
