"""What is done about keys, step by step, without doing any of it; what one key (`steps_one`) and
many (`steps_many`) have in common.

Each function is a generator: it yields steps and is sent what they give. A step is the name and the
arguments of a method of `Backend`, answered also by `Failed`, or one of those that a shell knows;
`fetch` takes the steps with threads, `fetch_async` with tasks:

- `("sleep", seconds)`
- `("call", loader, *args)`: as it is.
- `("load", loader, keys, timeout, bounded)`: as the load of these keys.
- `("fly", key, todo, wait)`: run the steps of `todo()`, or wait for who does that for `key`, for
  `wait` seconds at most.
- `("flies", key)`: whether a caller of `key` would wait for another's steps.
- `("behind", todo, then)`: have the steps of `todo()` run behind the caller's back, then call
  `then()`. Gives whether that is possible.
- `("soon", key, todo, seconds)`: what the steps of `todo()` give, or TimeoutError after `seconds`;
  as `todo(wait=seconds)` where they run in the caller's thread.
- `("apart", todo, key, then)`: what the steps of `todo()` give, which go on when the caller gives
  up; `then()` is called when they have ended, or never begun.
- `("join", claim, key)`: what another batch gives.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from datakit import events
from datakit.cache.backends.base import Fill, Lease
from datakit.cache.core import Core, Failed, Found
from datakit.cache.entry import AHEAD, HIT, STALE
from datakit.cache.policy import Policy
from datakit.errors import CodecError

T = TypeVar("T")

Steps: TypeAlias = Generator[tuple[Any, ...], Any, T]

FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks at a key that another process loads; doubled from look to look."""


NO_VALUE: Final = object()
"""What a load of many keys gives under one that it has no value for."""


HOLDERS: Final = 3
"""How many others are seen to load a key, one after the other, before it is loaded beside the last:
what they load is not kept."""


class Fate(Enum):
    """What became of a loaded value."""

    KEPT = "kept"
    """It is in the store."""
    UNFIT = "unfit"
    """No store may keep it: it has no such form, no lifetime, or is too large."""
    OUTRUN = "outrun"
    """Its key was invalidated or replaced meanwhile: it may be older than that."""
    LOST = "lost"
    """The store did not take it, or was not asked to."""


@dataclass(slots=True)
class Loaded(Generic[T]):
    """What one load gives to everyone who waited for it.

    payload: None without such a form. as_of: the tick at which it was certainly what the key
    stands for; whoever called later, and waited, needs a newer one.
    """

    value: T
    payload: bytes | None
    fate: Fate = Fate.KEPT
    as_of: float = math.inf


@dataclass(slots=True)
class Raised:
    """What steps end with in place of raising what a load raised, so that a StopIteration stays
    one. Whoever runs them raises it."""

    error: BaseException


def is_settled(found: Found[T], newer_than: float | None, *, leased: bool) -> bool:
    """Return whether no load is needed: it is fresh, or stale while somebody else loads."""
    if found.entry is None:
        return False
    if newer_than is not None and found.entry.stored_at <= newer_than:
        return not leased
    return found.decision in (HIT, AHEAD) or (found.decision is STALE and not leased)


def as_loaded(found: Found[Any], asked_at: int) -> Loaded[Any]:
    """Return what was found, when the store was asked at that tick, in place of a load."""
    assert found.entry is not None
    return Loaded(found.value, found.entry.payload, as_of=asked_at)


def as_of(fate: Fate | None, asked_at: int, *, asked: bool) -> float:
    """Return the tick at which a loaded value was certainly what its key stands for.

    fate: None where no lease guarded the load. asked_at: when the store was asked for leases.
    asked: whether it answered; where it cannot be asked, nothing can be known.
    """
    is_older = asked if fate is None else fate is Fate.OUTRUN
    return asked_at if is_older else math.inf


def give_back(core: Core, held: Mapping[str, Lease]) -> Steps[dict[str, bool]]:
    """Give leases back without a value; return of each key whether nobody touched it meanwhile."""
    if not held:
        return {}
    core.seal_off(held)
    kept = yield "release", tuple(held.items())
    if isinstance(kept, Failed):
        return dict.fromkeys(held, True)
    return dict(zip(held, kept, strict=True))


Filling: TypeAlias = dict[str, tuple[Any, bytes | None, float, Lease]]


def fill(core: Core, loaded: Filling, policy: Policy[Any]) -> Steps[dict[str, Fate]]:
    """Store what was loaded, where that is possible and allowed, and give all leases back; return
    what became of it."""
    fills: list[Fill[Any]] = []
    unfit: dict[str, Lease] = {}
    for key, (value, payload, seconds, lease) in loaded.items():
        stored = None
        if payload is not None and seconds > 0 and not core.suspects.find(key, core.monotonic()):
            entry = core.entry(value, payload, seconds, policy.codec)
            try:
                stored = core.stored(key, entry, policy.freshness.kept)
            except CodecError as exc:
                core.rejected(key, str(exc))
                core.note_kept(key, is_kept=False)
        if stored is None:
            unfit[key] = lease
        else:
            fills.append(Fill(*stored, lease))
    untouched = yield from give_back(core, unfit)
    fates = {key: Fate.UNFIT if untouched[key] else Fate.OUTRUN for key in unfit}
    core.seal_off(one.key for one in fills)
    kept = (yield "fill", tuple(fills)) if fills else []
    if isinstance(kept, Failed):
        core.stats.lost_writes += len(fills)
        for one in fills:  # nor is the lease given back: nobody here is to wait for its end
            core.note_kept(one.key, is_kept=False)
        return fates | {one.key: Fate.LOST for one in fills}
    core.stats.stores += sum(kept)
    core.stats.outrun += len(kept) - sum(kept)
    for one, was_kept in zip(fills, kept, strict=True):
        fates[one.key] = Fate.KEPT if was_kept else Fate.OUTRUN
        if was_kept:
            core.note_kept(one.key, is_kept=True)
            events.emit(events.CacheStored, one.key, one.seconds)
    return fates


def write(
    core: Core,
    operation: str,
    keys: Sequence[str],
    step: tuple[Any, ...],
    doubtful: float,
    *,
    quiet: bool = False,
) -> Steps[None]:
    """Take `step`, which replaces or removes what is under `keys`; else the keys are in doubt.

    doubtful: seconds after which an older value has certainly expired.

    Raises:
        CacheUnavailableError: the store did not take it, unless `quiet` or invalidations queue.
    """
    now = core.monotonic()
    known = [(key, core.suspects.find(key, now)) for key in keys] if core.suspects.any else []
    core.stats.invalidations += 1
    try:
        reply = yield step
    except BaseException:  # interrupted: the server may or may not have taken it
        core.doubt(keys, doubtful)
        raise
    finally:
        core.forget(keys)
    if not isinstance(reply, Failed):
        for key, suspect in known:
            core.suspects.settle(key, suspect)
        return
    core.stats.failed_invalidations += 1
    core.doubt(keys, doubtful)
    if not quiet and not core.queues:
        raise core.refused(operation, keys, reply.cause) from reply.cause


def clear(core: Core, keys: Sequence[str]) -> Steps[frozenset[str]]:
    """Try again the invalidations in doubt; return those of `keys` that still are."""
    now = core.monotonic()
    mine = {key: suspect for key in keys if (suspect := core.suspects.find(key, now)) is not None}
    due = core.suspects.due(now) | mine
    if not due:
        return frozenset()
    reply = yield "delete", tuple(due)
    if isinstance(reply, Failed):
        return frozenset(mine)
    for key, suspect in due.items():
        core.suspects.settle(key, suspect)
    return frozenset()
