"""State that a forked child must not take over from its parent: locks held, work under way."""

from os import register_at_fork
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something that can begin anew."""

    def start_anew(self) -> None:
        """Forget locks, waiters and work under way."""


_all: WeakSet[Renewable] = WeakSet()


def renew_after_fork(renewable: Renewable) -> None:
    """Have `renewable.start_anew()` called in every forked child, for as long as it lives."""
    _all.add(renewable)


def renew() -> None:
    """Begin anew, as a process does that is a copy of another: forked, or from a snapshot."""
    for renewable in list(_all):
        renewable.start_anew()


register_at_fork(after_in_child=renew)
