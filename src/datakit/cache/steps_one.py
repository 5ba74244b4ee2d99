"""What is done about one key, step by step; see `steps`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from datakit import events
from datakit._clock import uniform
from datakit.cache import steps
from datakit.cache.backends.base import Lease
from datakit.cache.core import NOTHING, Core, Failed, Found, describe
from datakit.cache.entry import AHEAD, HIT, MISS, SPARE, UNASKED
from datakit.cache.nesting import waits
from datakit.cache.policy import Policy
from datakit.cache.steps import Fate, Loaded, Raised, Steps
from datakit.resilience.deadlines import deadline
from datakit.resilience.flight import is_out_of_time

T = TypeVar("T")


@dataclass(slots=True)
class One(Generic[T]):
    """What a caller wants of a key. loader: gives the value."""

    core: Core
    key: str
    policy: Policy[T]
    loader: Callable[[], Any]

    def follow(self, found: Found[T]) -> Steps[T | Raised]:
        """Return the value to serve after a read that was no plain hit."""
        is_inside = self.core.is_loading(self.key)  # then `_share` waits for nobody
        if is_inside or found.decision is MISS or found.decision is UNASKED:
            return (yield from self._share(asked=found.decision is MISS))
        if found.decision is SPARE:
            return (yield from self._soft(found))
        return (yield from self._renewed(found))

    def _soft(self, found: Found[T]) -> Steps[T | Raised]:
        """Load, and serve what is there when that takes longer than the soft timeout."""
        if self.policy.soft_load_timeout is None:
            return (yield from self._share())
        try:
            value = yield "soon", self.key, self._share, self.policy.soft_load_timeout
        except Exception as exc:  # noqa: BLE001 - whatever a loader raises
            if not isinstance(exc, TimeoutError) or deadline.remaining() == 0:
                return Raised(exc)
            self.core.served_stale(self.key)
            return cast("T", found.value)
        return cast("T", value)

    def _renewed(self, found: Found[T]) -> Steps[T | Raised]:
        """Serve what is there, and have it loaded anew unless somebody does that already."""
        assert found.entry is not None
        lease = self.policy.lease
        if (yield "flies", self.key) or not self.core.begin_renewal(self.key, lease):
            return cast("T", found.value)
        todo = partial(self._share, newer_than=found.entry.stored_at)
        end = partial(self.core.end_renewal, self.key)
        is_behind = False
        try:
            is_behind = yield "behind", todo, end
            return cast("T", found.value) if is_behind else (yield from todo())
        finally:
            if not is_behind:
                end()

    def _share(
        self, *, asked: bool = True, newer_than: float | None = None, wait: float | None = None
    ) -> Steps[T | Raised]:
        """Return what one of the callers of the key finds or loads; see `_settle`.

        wait: seconds to wait for another caller; None for as long as it takes.
        """
        policy = self.policy
        called_at = next(self.core.ticks)
        mine: list[T] = []
        todo = partial(self._settle_mine, mine, asked, newer_than)
        try:
            with waits.waiting((id(self.core), self.key)) as may_wait:
                if not may_wait:
                    return cast("T", (yield "call", self.loader))
                shared = yield "fly", self.key, todo, wait
                if not mine and shared.as_of < called_at:  # and may have been invalidated before
                    shared = yield "fly", self.key, todo, wait
            if mine:
                return mine[0]
            if shared.payload is None:  # it cannot be copied, and is another caller's
                return cast("T", (yield self._loading(asked)))
        except Exception as exc:  # noqa: BLE001 - whatever a loader raises
            return Raised(exc)
        return policy.codec.copy(shared.value, shared.payload)

    def _settle_mine(
        self, mine: list[T], asked: bool, newer_than: float | None
    ) -> Steps[Loaded[T] | Raised]:
        """Settle; put the value into `mine` too, which others that get it do not."""
        loaded = yield from self._settle(asked, newer_than)
        if isinstance(loaded, Loaded):
            mine.append(loaded.value)
        return loaded

    def _loading(self, asked: bool) -> tuple[Any, ...]:
        bounded = self.core.is_bounded(asked=asked)
        return "load", self.loader, (self.key,), self.policy.load_timeout, bounded

    def _settle(self, asked: bool, newer_than: float | None) -> Steps[Loaded[T] | Raised]:
        """Return the value of the key: loaded by us, or by whoever else had the right to.

        asked: whether the store answered when it was read. newer_than: the wall-clock second of
        the value to be replaced early; then others' loads are not waited for.
        """
        core, policy = self.core, self.policy
        lease: Lease | None = None
        found: Found[T] = NOTHING
        asked_at = 0
        if asked:
            patience = 0.0 if core.is_unkept(self.key) else core.patience(policy.lease)
            wait_until = core.monotonic() + patience
            pause = steps.FIRST_PAUSE
            holders: set[Any] = set()
            while True:
                asked_at = next(core.ticks)
                grants = yield "acquire", (self.key,), policy.lease, core.seizes(wait_until)
                if isinstance(grants, Failed):
                    asked = False
                    break
                stored, lease, holder = grants[0]
                if holders and holder not in holders:  # he has not had his time
                    wait_until = core.monotonic() + patience
                holders.add(holder)
                found = core.judge(self.key, stored, policy, again=True)
                if steps.is_settled(found, newer_than, leased=lease is not None):
                    return (yield from self._instead(found, lease, asked_at))
                is_late = core.monotonic() >= wait_until or len(holders) >= steps.HOLDERS
                if lease is not None or is_late:
                    break
                yield "sleep", pause * uniform(0.5, 1.0)
                pause = min(pause * 2, steps.LONGEST_PAUSE)
            if lease is None and found.decision is SPARE and asked:
                core.served_stale(self.key)
                return steps.as_loaded(found, asked_at)
        return (yield from self._load(lease, found, asked_at, asked=asked))

    def _instead(self, found: Found[T], lease: Lease | None, asked_at: int) -> Steps[Loaded[T]]:
        """Give the lease back and return what was found."""
        loaded = steps.as_loaded(found, asked_at)
        if (yield from self._untouched(lease)):
            loaded.as_of = math.inf
        return loaded

    def _untouched(self, lease: Lease | None) -> Steps[bool]:
        """Give the lease back; return whether nobody touched the key since we have it."""
        held = {} if lease is None else {self.key: lease}
        untouched = yield from steps.give_back(self.core, held)
        return untouched.get(self.key, False)

    def _load(
        self, lease: Lease | None, found: Found[T], asked_at: int, *, asked: bool
    ) -> Steps[Loaded[T] | Raised]:
        """Return what the loader gives, else what was found.

        asked_at: when the store was asked for the lease.
        """
        core, key, policy = self.core, self.key, self.policy
        began = core.monotonic()
        core.stats.loads += 1
        try:
            value = yield self._loading(asked)
            policy.took(core.monotonic() - began)
            payload = core.payload(key, policy.codec, value)
            seconds = 0.0 if payload is None else core.seconds_for(key, policy, value)
            if seconds <= 0:
                core.note_kept(key, is_kept=False)
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - also when interrupted: others wait
            core.stats.load_errors += 1
            if isinstance(exc, Exception) and not is_out_of_time(exc):
                core.note_kept(key, is_kept=False)
            if found.entry is None or not isinstance(exc, Exception):
                yield from self._untouched(lease)
                return Raised(exc)
            events.emit(events.CacheLoadFailed, key, describe(exc))
            if found.decision not in (HIT, AHEAD):
                core.served_stale(key)
            return (yield from self._instead(found, lease, asked_at))
        filling = {} if lease is None else {key: (value, payload, seconds, lease)}
        fate = (yield from steps.fill(core, filling, policy)).get(key)
        as_of = steps.as_of(fate, asked_at, asked=asked)
        return Loaded(value, payload, fate or Fate.LOST, as_of)

    def renew(self) -> Steps[T | Raised]:
        """Return what the loader gives now, stored in place of what is there.

        The lease is taken from whoever has it: what they began to load before us is not stored.
        """
        core, keys, policy = self.core, (self.key,), self.policy
        if core.suspects.any:
            yield from steps.clear(core, keys)
        asked_at = next(core.ticks)
        grants = yield "acquire", keys, policy.lease, True
        asked = not isinstance(grants, Failed)
        lease = grants[0].lease if asked else None
        core.forget(keys)
        loaded = yield from self._load(lease, NOTHING, asked_at, asked=asked)
        if isinstance(loaded, Raised):
            return loaded
        core.forget(keys)
        if loaded.fate is Fate.LOST:
            core.doubt(keys, policy.doubtful)  # an older value may lie there still
        elif loaded.fate is Fate.UNFIT:
            removal = ("delete", keys)
            yield from steps.write(core, "refresh", keys, removal, policy.doubtful, quiet=True)
        return loaded.value
