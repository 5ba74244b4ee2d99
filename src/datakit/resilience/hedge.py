"""A second call beside one that takes longer than most; whichever ends first counts."""

from collections.abc import Awaitable, Callable
from functools import partial
from threading import Lock
from typing import ParamSpec, TypeVar

from datakit import events
from datakit._clock import SYSTEM_CLOCK, WaitingClock
from datakit.errors import ConfigError
from datakit.resilience import checks
from datakit.resilience.budget import RetryBudget
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.latency import SAMPLE, Latencies
from datakit.resilience.race import Race
from datakit.resilience.verdict import Verdict

P = ParamSpec("P")
T = TypeVar("T")


class Hedge:
    """Runs a read again beside itself once it takes longer than the observed `quantile`.

    For reads only: both calls may be executed. Nothing is hedged before `minimum_calls` were
    seen. The first result counts, and the other call is cancelled: a task at once; a thread
    cannot be, so its `deadline` is over from then on, and its result is dropped. Second calls
    take tokens as retries do, so that a server which is slow for all is not asked twice by all.

    From threads, each call runs in a thread of its own once the quantile is known; only with
    `max_threads` of them running is a call made plainly.

    quantile: a share, above 0 and at most 1. budget: one of its own unless given.
    name: what events call it.

    Raises:
        ConfigError: a figure is out of range; the message names it.

    Source: Dean and Barroso, "The Tail at Scale", CACM 56 (2), 2013.
    """

    def __init__(
        self,
        *,
        quantile: float = 0.95,
        minimum_calls: int = 20,
        budget: RetryBudget | None = None,
        max_threads: int = 64,
        name: str = "",
        clock: WaitingClock = SYSTEM_CLOCK,
    ) -> None:
        checks.share("Hedge", "quantile", quantile)
        checks.count("Hedge", "minimum_calls", minimum_calls)
        checks.count("Hedge", "max_threads", max_threads, least=2)
        if minimum_calls > SAMPLE:
            raise ConfigError(f"Hedge(minimum_calls={minimum_calls!r}): must be {SAMPLE} at most")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise ConfigError(f"Hedge(budget={budget!r}): must be a RetryBudget")
        self.name = name
        self._budget = budget or RetryBudget()
        self._latencies = Latencies(quantile, minimum_calls)
        self._max_threads = max_threads
        self._clock = clock
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget the calls under way; called in a forked child, whose threads are gone."""
        self._threads = 0
        self._generation = self.__dict__.get("_generation", 0) + 1
        self._lock = Lock()

    @property
    def delay(self) -> float | None:
        """Seconds after which a second call starts; None while too little is known."""
        return self._latencies.value

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the first of at most two calls of `fn(*args, **kwargs)` returns.

        Raises:
            DeadlineExceededError: the enclosing `deadline` ended before either.
            BaseException: what the first call raises, when it fails before a second one starts
                or both fail.
        """
        delay = self._latencies.value
        began = self._clock.monotonic()
        if delay is None or not self._take_thread():
            return self._won(fn(*args, **kwargs), began)
        give_thread = partial(self._give_thread, self._generation)
        race = Race(partial(fn, *args, **kwargs), self._clock, give_thread)
        if not race.start():
            return self._won(fn(*args, **kwargs), began)
        try:
            race.wait(delay)
            if not race.is_over and self._may_hedge(delay, threaded=True):
                race.start()
            race.wait()
            return self._won(race.result(), began)
        finally:
            race.cancel()

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the first of at most two calls of `fn(*args, **kwargs)` gives.

        Raises:
            DeadlineExceededError: the enclosing `deadline` ended before either.
            BaseException: what the first call raises, when it fails before a second one starts
                or both fail.
        """
        from datakit.resilience.race_async import AsyncRace

        delay = self._latencies.value
        began = self._clock.monotonic()
        if delay is None:
            return self._won(await fn(*args, **kwargs), began)
        race = AsyncRace(partial(fn, *args, **kwargs), self._clock)
        try:
            race.start()
            await race.wait(delay)
            if not race.is_over and self._may_hedge(delay, threaded=False):
                race.start()
            await race.wait()
            return self._won(race.result(), began)
        finally:
            race.cancel()

    def _may_hedge(self, delay: float, *, threaded: bool) -> bool:
        if threaded and not self._take_thread():
            return False
        if not self._budget.take(self._budget.cost(Verdict.DISCONNECT)):
            if threaded:
                self._give_thread(self._generation)
            return False
        events.emit(events.HedgeStarted, self.name, round(delay, 4))
        return True

    def _won(self, result: T, began: float) -> T:
        """Learn how long a success took: failures are quick or slow for reasons of their own."""
        seconds = self._clock.monotonic() - began
        with self._lock:
            self._latencies.note(seconds)
        self._budget.give(self._budget.success)
        return result

    def _take_thread(self) -> bool:
        with self._lock:
            is_free = self._threads < self._max_threads
            self._threads += is_free
            return is_free

    def _give_thread(self, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                self._threads -= 1
