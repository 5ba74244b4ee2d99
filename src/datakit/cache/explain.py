"""Why a call would be a hit or a miss."""

from dataclasses import dataclass
from typing import Any

from datakit.cache.core import Core, Failed, describe, value_of
from datakit.cache.entry import (
    AHEAD,
    HIT,
    MISS,
    SPARE,
    STALE,
    UNASKED,
    Decision,
    Entry,
    EntryError,
)
from datakit.cache.function import CachedFunction
from datakit.cache.function_async import AsyncCachedFunction
from datakit.cache.plan import Plan
from datakit.cache.policy import Policy
from datakit.errors import CodecError, ConfigError


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one call would find. The value itself is not in it.

    key: under which the result is stored. verdict: "hit", "refresh ahead", "stale while
    revalidating", "stale if error", "miss" or "unavailable". reason: a sentence.
    size: bytes of the stored form, None when nothing is there, 0 for an object kept in memory.
    age, fresh_for: seconds since it was stored (negative: the clock of whoever stored it is ahead),
    and until it expires (negative: past it); None where that is not known.
    in_doubt: whether an invalidation of the key failed.
    """

    key: str
    verdict: str
    reason: str
    size: int | None = None
    age: float | None = None
    fresh_for: float | None = None
    in_doubt: bool = False


def plan_of(fn: object, core: Core) -> Plan[Any]:
    """Return the plan of a function that is cached by the cache of `core`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(fn, CachedFunction | AsyncCachedFunction):
        raise ConfigError(f"explain({fn!r}): give a function decorated with cached")
    plan = fn._plan or fn._open()
    if plan.core is not core:
        raise ConfigError(f"explain({fn!r}): it is cached by another cache; ask that one")
    return plan


def explained(core: Core, key: str, stored: Any, policy: Policy[Any]) -> Explanation:
    """Return what a call would make of `stored`, the answer of the store."""
    in_doubt = core.suspects.find(key, core.monotonic()) is not None
    if isinstance(stored, Failed):
        return Explanation(key, UNASKED.value, describe(stored.cause), in_doubt=in_doubt)
    if in_doubt:
        reason = "an invalidation failed; it is tried again before the key is served"
        return Explanation(key, UNASKED.value, reason, in_doubt=True)
    if stored is None:
        return Explanation(key, MISS.value, "nothing is stored under the key")
    size = len(stored.payload) if isinstance(stored, Entry) else len(stored)
    try:
        entry, decision = core.opened(key, stored, policy)
        value_of(entry, policy.codec)
    except (EntryError, CodecError) as exc:
        return Explanation(key, MISS.value, f"of no use: {exc}", size)
    now = core.wall()
    is_dated = core.is_dated
    age = now - entry.stored_at if is_dated else None
    fresh_for = entry.fresh_until - now if is_dated else None
    if decision is MISS and now < entry.served_from:
        reason = (
            f"it was stored {-(age or 0):.1f} s in the future: a clock was set, or two disagree"
        )
    elif decision is MISS and now < entry.fresh_until:
        reason = "too many invalidations failed to tell whether one was of this key"
    else:
        reason = _reason(decision, now - entry.fresh_until)
    return Explanation(key, decision.value, reason, size, age, fresh_for)


def _reason(decision: Decision, past: float) -> str:
    expired = f"it expired {past:.1f} s ago"
    return {
        HIT: "it is fresh",
        AHEAD: "it is fresh, and near enough to its end to be loaded anew",
        STALE: f"{expired}, is served, and loaded anew",
        SPARE: f"{expired} and is served only when the load fails",
    }.get(decision, expired)
