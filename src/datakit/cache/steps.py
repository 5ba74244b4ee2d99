"""What is done about a key, step by step, without doing any of it.

Each function is a generator: it yields a step and is sent the store's answer, or `Failed`. A step
is the name and the arguments of a method of `Backend`, or `("sleep", seconds)`, or `("load",
loader, keys, timeout, bounded)`. One shell takes the steps with threads, one with tasks.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from datakit import events
from datakit._clock import uniform
from datakit.cache.backends.base import Fill, Lease
from datakit.cache.core import NOTHING, Core, Failed, Found, describe
from datakit.cache.entry import AHEAD, HIT, SPARE, STALE
from datakit.cache.policy import Policy
from datakit.errors import CodecError

T = TypeVar("T")

Steps: TypeAlias = Generator[tuple[Any, ...], Any, T]

FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks at a key that another process loads; doubled from look to look."""


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
    """What one load gives to everyone who waited for it. `payload` is None without such a form."""

    value: T
    payload: bytes | None
    fate: Fate = Fate.KEPT


@dataclass(slots=True)
class Raised:
    """What a load raised; handed on as a value, so that a StopIteration stays one."""

    error: BaseException


def settle(
    core: Core,
    key: str,
    policy: Policy[T],
    loader: Callable[[], Any],
    *,
    asked: bool,
    newer_than: float | None = None,
    limit: float,
) -> Steps[Loaded[T] | Raised]:
    """Return the value of `key`: loaded by us, or by whoever else had the right to.

    asked: whether the store answered when it was read. newer_than: the wall-clock second of the
    value to be replaced early; then others' loads are not waited for. limit: `max_value`.
    """
    lease: Lease | None = None
    found: Found[T] = NOTHING
    if asked:
        wait_until = core.monotonic() + core.patience(policy.lease)
        pause = FIRST_PAUSE
        while True:
            grants = yield "acquire", (key,), policy.lease, core.seizes(wait_until)
            if isinstance(grants, Failed):
                asked = False
                break
            stored, lease = grants[0]
            found = core.judge(key, stored, policy, again=True)
            if is_settled(found, newer_than, leased=lease is not None):
                if lease is not None:
                    yield "release", ((key, lease),)
                return _as_loaded(found)
            if lease is not None or core.monotonic() >= wait_until:
                break
            yield "sleep", pause * uniform(0.5, 1.0)
            pause = min(pause * 2, LONGEST_PAUSE)
        if lease is None and found.decision is SPARE and asked:
            core.served_stale(key)
            return _as_loaded(found)
    return (yield from _load(core, key, policy, loader, lease, found, asked, limit))


def is_settled(found: Found[T], newer_than: float | None, *, leased: bool) -> bool:
    """Return whether no load is needed: it is fresh, or stale while somebody else loads."""
    if found.entry is None:
        return False
    if newer_than is not None and found.entry.stored_at <= newer_than:
        return not leased
    return found.decision in (HIT, AHEAD) or (found.decision is STALE and not leased)


def _as_loaded(found: Found[Any]) -> Loaded[Any]:
    assert found.entry is not None
    return Loaded(found.value, found.entry.payload)


def _load(
    core: Core,
    key: str,
    policy: Policy[T],
    loader: Callable[[], Any],
    lease: Lease | None,
    found: Found[T],
    asked: bool,
    limit: float,
) -> Steps[Loaded[T] | Raised]:
    began = core.monotonic()
    core.stats.loads += 1
    try:
        value = yield "load", loader, (key,), policy.load_timeout, core.is_bounded(asked=asked)
        policy.took(core.monotonic() - began)
        payload = core.payload(key, policy.codec, value)
        seconds = 0.0 if payload is None else policy.seconds_for(value)
    except GeneratorExit:
        raise
    except BaseException as exc:  # noqa: BLE001 - also when interrupted: others wait
        core.stats.load_errors += 1
        if lease is not None:
            yield "release", ((key, lease),)
        if found.entry is None or not isinstance(exc, Exception):
            return Raised(exc)
        events.emit(events.CacheLoadFailed, key, describe(exc))
        if found.decision not in (HIT, AHEAD):
            core.served_stale(key)
        return _as_loaded(found)
    if lease is None:
        return Loaded(value, payload, Fate.LOST)
    fates = yield from _fill(core, {key: (value, payload, seconds, lease)}, policy, limit)
    return Loaded(value, payload, fates[key])


Filling: TypeAlias = dict[str, tuple[Any, bytes | None, float, Lease]]


def _fill(core: Core, loaded: Filling, policy: Policy[Any], limit: float) -> Steps[dict[str, Fate]]:
    """Store what was loaded, where that is possible and allowed, and give all leases back; return
    what became of it."""
    fills: list[Fill[Any]] = []
    unfit: dict[str, Lease] = {}
    for key, (value, payload, seconds, lease) in loaded.items():
        stored = None
        if payload is not None and seconds > 0 and not core.suspects.find(key, core.monotonic()):
            entry = core.entry(value, payload, seconds, policy.codec)
            try:
                stored = core.stored(key, entry, policy.freshness.kept, limit)
            except CodecError as exc:
                core.rejected(key, str(exc))
        if stored is None:
            unfit[key] = lease
        else:
            fills.append(Fill(*stored, lease))
    if unfit:
        yield "release", tuple(unfit.items())
    if core.envelope is not None:  # from here on another process may invalidate what is stored
        core.forget(fill.key for fill in fills)
    fates = dict.fromkeys(loaded, Fate.UNFIT)
    kept = (yield "fill", tuple(fills)) if fills else []
    if isinstance(kept, Failed):
        core.stats.lost_writes += len(fills)
        return fates | {fill.key: Fate.LOST for fill in fills}
    core.stats.stores += sum(kept)
    core.stats.outrun += len(kept) - sum(kept)
    for fill, was_kept in zip(fills, kept, strict=True):
        fates[fill.key] = Fate.KEPT if was_kept else Fate.OUTRUN
        if was_kept:
            events.emit(events.CacheStored, fill.key, fill.seconds)
    return fates


def renew(
    core: Core, key: str, policy: Policy[T], loader: Callable[[], Any], *, limit: float
) -> Steps[Loaded[T] | Raised]:
    """Return what `loader` gives now, stored in place of what is there.

    The lease is taken from whoever has it: what they began to load before us is not stored.
    """
    if core.suspects.any:
        yield from clear(core, (key,))
    grants = yield "acquire", (key,), policy.lease, True
    asked = not isinstance(grants, Failed)
    lease = grants[0].lease if asked else None
    core.forget((key,))
    loaded = yield from _load(core, key, policy, loader, lease, NOTHING, asked, limit)
    if isinstance(loaded, Raised):
        return loaded
    core.forget((key,))
    if loaded.fate is Fate.LOST:
        core.doubt((key,), policy.doubtful)  # an older value may lie there still
    elif loaded.fate is Fate.UNFIT:
        yield from write(core, "refresh", (key,), ("delete", (key,)), policy.doubtful, quiet=True)
    return loaded


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


def settle_many(
    core: Core,
    keys: Sequence[str],
    policy: Policy[T],
    loader: Callable[[Sequence[str]], Any],
    *,
    asked: bool,
    limit: float,
) -> Steps[dict[str, Loaded[T]] | Raised]:
    """Return the values of `keys` as far as there are any, loaded in one run where they can be.

    loader: gets keys, gives their values by key. What others load is waited for after our load.
    """
    results: dict[str, Loaded[T]] = {}
    pending = list(keys)
    wait_until = core.monotonic() + core.patience(policy.lease)
    pause = FIRST_PAUSE
    while pending:
        grants: Any = Failed(OSError())
        if asked:
            grants = yield "acquire", tuple(pending), policy.lease, core.seizes(wait_until)
        held: dict[str, Lease] = {}
        spares: dict[str, Loaded[T]] = {}
        asked = not isinstance(grants, Failed)
        if not isinstance(grants, Failed):
            needless = _sort_out(core, pending, grants, policy, results, held, spares)
            if needless:
                yield "release", needless
        is_late = not asked or core.monotonic() >= wait_until
        wanted = [key for key in pending if key in held or (is_late and key not in results)]
        if wanted:
            loaded = yield from _load_many(core, wanted, policy, loader, held, asked, limit)
            if isinstance(loaded, Raised):
                if not isinstance(loaded.error, Exception) or not spares.keys() >= set(wanted):
                    return loaded
                for key in wanted:
                    core.served_stale(key)
                loaded = {key: spares[key] for key in wanted}
            results |= loaded
        pending = [key for key in pending if key not in results and key not in wanted]
        if pending and not wanted:
            yield "sleep", pause * uniform(0.5, 1.0)
            pause = min(pause * 2, LONGEST_PAUSE)
    return results


def _sort_out(
    core: Core,
    keys: Sequence[str],
    grants: Sequence[Any],
    policy: Policy[T],
    results: dict[str, Loaded[T]],
    held: dict[str, Lease],
    spares: dict[str, Loaded[T]],
) -> tuple[tuple[str, Lease], ...]:
    """Put each key where it belongs; return the leases that nobody needs."""
    needless: list[tuple[str, Lease]] = []
    for key, (stored, lease) in zip(keys, grants, strict=True):
        found = core.judge(key, stored, policy, again=True)
        if is_settled(found, None, leased=lease is not None):
            results[key] = _as_loaded(found)
            if lease is not None:
                needless.append((key, lease))
        elif lease is not None:
            held[key] = lease
        if found.entry is not None:
            spares[key] = _as_loaded(found)
    return tuple(needless)


def _load_many(
    core: Core,
    keys: Sequence[str],
    policy: Policy[T],
    loader: Callable[[Sequence[str]], Any],
    held: dict[str, Lease],
    asked: bool,
    limit: float,
) -> Steps[dict[str, Loaded[T]] | Raised]:
    began = core.monotonic()
    core.stats.loads += 1
    filling: Filling = {}
    try:
        bounded = core.is_bounded(asked=asked)
        values = yield "load", lambda: loader(keys), keys, policy.load_timeout, bounded
        policy.took(core.monotonic() - began)
        loaded = {k: Loaded(v, core.payload(k, policy.codec, v)) for k, v in values.items()}
        for key, lease in held.items():
            got = loaded.get(key)
            seconds = 0.0 if got is None else policy.seconds_for(got.value)
            value, payload = (None, None) if got is None else (got.value, got.payload)
            filling[key] = (value, payload, seconds, lease)
    except GeneratorExit:
        raise
    except BaseException as exc:  # noqa: BLE001 - also when interrupted: others wait
        core.stats.load_errors += 1
        if held:
            yield "release", tuple(held.items())
        return Raised(exc)
    for key, fate in (yield from _fill(core, filling, policy, limit)).items():
        if key in loaded:
            loaded[key].fate = fate
    return loaded
