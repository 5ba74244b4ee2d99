"""Which keys are being loaded by a batch, so that another batch waits for them alone."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from enum import Enum
from threading import RLock
from typing import Any, Final, TypeAlias

from datakit.cache.steps import Loaded, Raised
from datakit.resilience.flight import is_out_of_time
from datakit.resilience.forks import renew_after_fork


class Abandoned(Enum):
    """The type of `ABANDONED`."""

    ABANDONED = "abandoned"


ABANDONED: Final = Abandoned.ABANDONED
"""What a claim ends with when whoever made it was interrupted, or out of time: another one has to
load."""

Claim: TypeAlias = "Future[Loaded[Any] | Abandoned]"
"""Ends with what was loaded, or the load's error."""


class Mine(dict[str, Claim]):
    """What one batch has claimed. It is abandoned with the batch, wherever that was interrupted."""

    def __init__(self, claims: "Claims") -> None:
        super().__init__()
        self._claims = claims

    def __del__(self) -> None:
        self._claims.abandon(self)


class Claims:
    """The keys that batches of this process load. Nothing here waits."""

    def __init__(self) -> None:
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget all claims; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # what the garbage collector ends may forget a key while we hold it
        self._claims: dict[str, Claim] = {}

    def claim(self, keys: Iterable[str]) -> tuple[Mine, dict[str, Claim]]:
        """Return the keys that are ours to load, and those that others do load."""
        mine = Mine(self)
        others: dict[str, Claim] = {}
        with self._lock:
            for key in keys:
                theirs = self._claims.get(key)
                if theirs is not None:
                    others[key] = theirs
                    continue
                claim: Claim = Future()
                mine[key] = claim
                claim.set_running_or_notify_cancel()  # a waiter's cancel does not end it
                self._claims[key] = claim
        return mine, others

    def forget(self, key: str) -> None:
        """Let later batches load `key` themselves; who waits already, waits on."""
        with self._lock:
            self._claims.pop(key, None)

    def settle(
        self, mine: Mapping[str, Claim], outcome: Mapping[str, Loaded[Any]] | Raised
    ) -> None:
        """Give those who wait for `mine` what there is now under their keys, or the error."""
        self._end(mine)
        for key, claim in mine.items():
            if not isinstance(outcome, Raised):
                claim.set_result(outcome[key])
            elif isinstance(outcome.error, Exception) and not is_out_of_time(outcome.error):
                claim.set_exception(outcome.error)
            else:
                claim.set_result(ABANDONED)

    def abandon(self, mine: Mapping[str, Claim]) -> None:
        """Let those who wait for `mine` load themselves, where it is not settled."""
        self._end(mine)
        for claim in mine.values():
            if not claim.done():
                claim.set_result(ABANDONED)

    def _end(self, mine: Mapping[str, Claim]) -> None:
        with self._lock:
            for key, claim in mine.items():
                if self._claims.get(key) is claim:
                    del self._claims[key]
