"""What is done about many keys, step by step; see `steps`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from datakit._clock import uniform
from datakit.cache import steps
from datakit.cache.backends.base import Lease
from datakit.cache.claims import ABANDONED, Claim, Claims
from datakit.cache.core import NO_ANSWER, Core, Failed, Found
from datakit.cache.entry import HIT, UNASKED
from datakit.cache.nesting import waits
from datakit.cache.policy import Policy
from datakit.cache.steps import NO_VALUE, Loaded, Raised, Steps
from datakit.resilience.flight import is_out_of_time

T = TypeVar("T")


def read_many(core: Core, keys: Sequence[str], policy: Policy[T]) -> Steps[dict[str, Found[T]]]:
    """Return what there is under each key, in one round trip."""
    doubted = (yield from steps.clear(core, keys)) if core.suspects.any else ()
    answers = (yield "get_many", keys) if keys else []
    if isinstance(answers, Failed):
        return dict.fromkeys(keys, NO_ANSWER)
    found = {
        key: NO_ANSWER if key in doubted else core.judge(key, stored, policy)
        for key, stored in zip(keys, answers, strict=True)
    }
    for key, one in found.items():
        core.count(key, one.decision)
    return found


@dataclass(slots=True)
class Many(Generic[T]):
    """What a caller wants of many keys. loader: gets keys, gives their values by key."""

    core: Core
    claims: Claims
    policy: Policy[T]
    loader: Callable[[Sequence[str]], Any]

    def fetch(self, keys: Sequence[str]) -> Steps[dict[str, T] | Raised]:
        """Return the values of `keys`, those that are not there loaded in one run."""
        core, codec = self.core, self.policy.codec
        called_at = next(core.ticks)
        found = yield from read_many(core, keys, self.policy)
        values = {k: cast("T", one.value) for k, one in found.items() if one.decision is HIT}
        missing = [key for key in keys if key not in values]
        asked = not any(found[key].decision is UNASKED for key in missing)
        patience = core.patience(self.policy.lease)
        try:
            if any(map(core.is_loading, missing)):  # inside this very load
                values |= yield "call", self.loader, missing
                return values
            while missing:
                mine, others = self.claims.claim(missing)
                if mine:
                    todo = partial(self._settle_claims, mine, asked, patience)
                    end = partial(self.claims.abandon, mine)
                    results = yield "apart", todo, missing[0], end
                    values |= {
                        key: one.value for key, one in results.items() if one.value is not NO_VALUE
                    }
                missing = []
                for key, claim in others.items():
                    with waits.waiting((id(core), key)) as may_wait:
                        if not may_wait:
                            values |= yield "call", self.loader, [key]
                            continue
                        loaded = yield "join", claim, key
                    if loaded is ABANDONED or loaded.as_of < called_at:  # invalidated, perhaps
                        missing.append(key)
                    elif loaded.value is NO_VALUE:
                        continue
                    elif loaded.payload is None:  # it cannot be copied, and is another batch's
                        values |= yield "call", self.loader, [key]
                    else:
                        values[key] = codec.copy(loaded.value, loaded.payload)
        except Exception as exc:  # noqa: BLE001 - whatever a loader raises
            return Raised(exc)
        return values

    def _settle_claims(
        self, mine: dict[str, Claim], asked: bool, patience: float
    ) -> Steps[dict[str, Loaded[T]] | Raised]:
        outcome = yield from self._settle(list(mine), asked, patience)
        self.claims.settle(mine, outcome)
        return outcome

    def _settle(
        self, pending: list[str], asked: bool, patience: float
    ) -> Steps[dict[str, Loaded[T]] | Raised]:
        """Return the values of keys as far as there are any, loaded in one run where they can be.

        What others load is waited for after our load. patience: seconds for each of them.
        """
        core, lease = self.core, self.policy.lease
        results: dict[str, Loaded[T]] = {}
        wait_until = core.monotonic() + patience
        pause = steps.FIRST_PAUSE
        holders: dict[str, set[Any]] = {key: set() for key in pending}
        while pending:
            asked_at = next(core.ticks)
            grants: Any = Failed(OSError())
            if asked:
                grants = yield "acquire", tuple(pending), lease, core.seizes(wait_until)
            held: dict[str, Lease] = {}
            spares: dict[str, Loaded[T]] = {}
            asked = not isinstance(grants, Failed)
            if not isinstance(grants, Failed):
                for key, grant in zip(pending, grants, strict=True):
                    if holders[key] and grant.holder not in holders[key]:
                        wait_until = core.monotonic() + patience  # he has not had his time
                    holders[key].add(grant.holder)
                needless = self._sort_out(pending, grants, asked_at, results, held, spares)
                yield from self._give_back(needless, results)
            is_late = not asked or core.monotonic() >= wait_until
            wanted = [
                key
                for key in pending
                if key in held
                or (key not in results and (is_late or self._is_alone(key, holders[key])))
            ]
            if wanted:
                loaded = yield from self._load(wanted, held, spares, asked_at, asked=asked)
                if isinstance(loaded, Raised):
                    return loaded
                results |= loaded
            pending = [key for key in pending if key not in results]
            if pending and not wanted:
                yield "sleep", pause * uniform(0.5, 1.0)
                pause = min(pause * 2, steps.LONGEST_PAUSE)
        return results

    def _is_alone(self, key: str, holders: set[Any]) -> bool:
        """Return whether what others load of `key` is not worth waiting for."""
        return len(holders) >= steps.HOLDERS or self.core.is_unkept(key)

    def _sort_out(
        self,
        keys: Sequence[str],
        grants: Sequence[Any],
        asked_at: int,
        results: dict[str, Loaded[T]],
        held: dict[str, Lease],
        spares: dict[str, Loaded[T]],
    ) -> dict[str, Lease]:
        """Put each key where it belongs; return the leases that nobody needs."""
        needless: dict[str, Lease] = {}
        for key, (stored, lease, _) in zip(keys, grants, strict=True):
            found = self.core.judge(key, stored, self.policy, again=True)
            if steps.is_settled(found, None, leased=lease is not None):
                results[key] = steps.as_loaded(found, asked_at)
                if lease is not None:
                    needless[key] = lease
            elif lease is not None:
                held[key] = lease
            if found.entry is not None:
                spares[key] = steps.as_loaded(found, asked_at)
        return needless

    def _give_back(self, held: dict[str, Lease], found: dict[str, Loaded[T]]) -> Steps[None]:
        """Give leases back; what was found under those that still held is certain."""
        for key, untouched in (yield from steps.give_back(self.core, held)).items():
            if untouched and key in found:
                found[key].as_of = math.inf

    def _load(
        self,
        keys: Sequence[str],
        held: dict[str, Lease],
        spares: dict[str, Loaded[T]],
        asked_at: int,
        *,
        asked: bool,
    ) -> Steps[dict[str, Loaded[T]] | Raised]:
        """Return what the loader gives, else what was found, if that is all of it.

        asked_at: when the store was asked for the leases.
        """
        core, policy = self.core, self.policy
        began = core.monotonic()
        core.stats.loads += 1
        filling: steps.Filling = {}
        try:
            bounded = core.is_bounded(asked=asked)
            work = partial(self.loader, keys)
            values = yield "load", work, keys, policy.load_timeout, bounded
            policy.took(core.monotonic() - began)
            loaded = {key: self._loaded(key, values) for key in keys}
            for key, one in loaded.items():
                seconds = 0.0 if one.payload is None else core.seconds_for(key, policy, one.value)
                if seconds <= 0:
                    core.note_kept(key, is_kept=False)
                if key in held:
                    filling[key] = (one.value, one.payload, seconds, held[key])
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - also when interrupted: others wait
            core.stats.load_errors += 1
            if isinstance(exc, Exception) and not is_out_of_time(exc):
                for key in keys:
                    core.note_kept(key, is_kept=False)
            yield from self._give_back(held, spares)
            if not isinstance(exc, Exception) or not spares.keys() >= set(keys):
                return Raised(exc)
            for key in keys:
                core.served_stale(key)
            return {key: spares[key] for key in keys}
        fates = yield from steps.fill(core, filling, policy)
        for key, one in loaded.items():
            one.as_of = steps.as_of(fates.get(key), asked_at, asked=asked)
        return loaded

    def _loaded(self, key: str, values: dict[str, Any]) -> Loaded[Any]:
        if key not in values:
            return Loaded(NO_VALUE, None)
        return Loaded(values[key], self.core.payload(key, self.policy.codec, values[key]))
