"""What is done about many keys, step by step; see `steps`."""

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
from datakit.cache.steps import Fate, Loaded, Raised, Steps

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
        found = yield from read_many(core, keys, self.policy)
        values = {k: cast("T", one.value) for k, one in found.items() if one.decision is HIT}
        missing = [key for key in keys if key not in values]
        asked = not any(found[key].decision is UNASKED for key in missing)
        is_first = True
        try:
            if any(map(core.is_loading, missing)):  # inside this very load
                values |= yield "call", self.loader, missing
                return values
            while missing:
                mine, others = self.claims.claim(missing)
                if mine:
                    results = yield "apart", self._settle_claims(mine, asked), missing[0]
                    values |= {key: loaded.value for key, loaded in results.items()}
                missing = []
                for key, claim in others.items():
                    with waits.waiting((id(core), key)) as may_wait:
                        if not may_wait:
                            values |= yield "call", self.loader, [key]
                            continue
                        loaded = yield "join", claim, key
                    if loaded is ABANDONED or (loaded and loaded.fate is Fate.OUTRUN and is_first):
                        missing.append(key)
                    elif loaded is not None:
                        if loaded.payload is None:  # it cannot be copied, and is another batch's
                            values |= yield "call", self.loader, [key]
                        else:
                            values[key] = codec.copy(loaded.value, loaded.payload)
                is_first = False
        except Exception as exc:  # noqa: BLE001 - whatever a loader raises
            return Raised(exc)
        return values

    def _settle_claims(
        self, mine: dict[str, Claim], asked: bool
    ) -> Steps[dict[str, Loaded[T]] | Raised]:
        outcome: dict[str, Loaded[T]] | Raised
        try:
            outcome = yield from self._settle(list(mine), asked)
        except BaseException as exc:  # noqa: BLE001 - also when interrupted: others wait
            outcome = Raised(exc)
        self.claims.settle(mine, outcome)
        return outcome

    def _settle(self, pending: list[str], asked: bool) -> Steps[dict[str, Loaded[T]] | Raised]:
        """Return the values of keys as far as there are any, loaded in one run where they can be.

        What others load is waited for after our load.
        """
        core, lease = self.core, self.policy.lease
        results: dict[str, Loaded[T]] = {}
        wait_until = core.monotonic() + core.patience(lease)
        pause = steps.FIRST_PAUSE
        while pending:
            grants: Any = Failed(OSError())
            if asked:
                grants = yield "acquire", tuple(pending), lease, core.seizes(wait_until)
            held: dict[str, Lease] = {}
            spares: dict[str, Loaded[T]] = {}
            asked = not isinstance(grants, Failed)
            if not isinstance(grants, Failed):
                needless = self._sort_out(pending, grants, results, held, spares)
                if needless:
                    yield "release", needless
            is_late = not asked or core.monotonic() >= wait_until
            wanted = [key for key in pending if key in held or (is_late and key not in results)]
            if wanted:
                loaded = yield from self._load(wanted, held, asked)
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
                pause = min(pause * 2, steps.LONGEST_PAUSE)
        return results

    def _sort_out(
        self,
        keys: Sequence[str],
        grants: Sequence[Any],
        results: dict[str, Loaded[T]],
        held: dict[str, Lease],
        spares: dict[str, Loaded[T]],
    ) -> tuple[tuple[str, Lease], ...]:
        """Put each key where it belongs; return the leases that nobody needs."""
        needless: list[tuple[str, Lease]] = []
        for key, (stored, lease) in zip(keys, grants, strict=True):
            found = self.core.judge(key, stored, self.policy, again=True)
            if steps.is_settled(found, None, leased=lease is not None):
                results[key] = steps.as_loaded(found)
                if lease is not None:
                    needless.append((key, lease))
            elif lease is not None:
                held[key] = lease
            if found.entry is not None:
                spares[key] = steps.as_loaded(found)
        return tuple(needless)

    def _load(
        self, keys: Sequence[str], held: dict[str, Lease], asked: bool
    ) -> Steps[dict[str, Loaded[T]] | Raised]:
        core, policy = self.core, self.policy
        began = core.monotonic()
        core.stats.loads += 1
        filling: steps.Filling = {}
        try:
            bounded = core.is_bounded(asked=asked)
            work = partial(self.loader, keys)
            values = yield "load", work, keys, policy.load_timeout, bounded
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
        for key, fate in (yield from steps.fill(core, filling, policy)).items():
            if key in loaded:
                loaded[key].fate = fate
        return loaded
