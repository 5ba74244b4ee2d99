"""The life of a server in a test."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class WithBlock(ABC):
    """Something that lives as long as its `with` block."""

    @abstractmethod
    def start(self) -> Self:
        """Start it; return itself."""

    @abstractmethod
    def close(self) -> None:
        """End it and remove what it made."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
