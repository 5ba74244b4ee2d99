"""While an endpoint is down one caller probes it, and the others wait for what it finds."""

from collections.abc import Awaitable, Callable
from errno import EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH
from socket import gaierror
from threading import Event, RLock
from typing import Final, ParamSpec, TypeVar

from datakit import events
from datakit._clock import SYSTEM_CLOCK, WaitingClock, uniform
from datakit.errors import (
    DatakitError,
    DeadlineExceededError,
    ResolveTimeoutError,
    ServerFailureError,
)
from datakit.resilience import checks
from datakit.resilience.backoff import full_jitter
from datakit.resilience.deadlines import deadline, over
from datakit.resilience.forks import renew_after_fork
from datakit.resilience.pace import paced
from datakit.resilience.waiters import Waiter, WaitQueue, task_event

P = ParamSpec("P")
T = TypeVar("T")


MAX_SPREAD: Final = 0.5
"""Seconds within which all who waited go on."""

_NETWORK: Final = frozenset({ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH})


def is_down(exc: Exception) -> bool:
    """Return whether `exc` says that the endpoint is away: connection errors and timeouts.

    A name that no server could resolve counts, an enclosing deadline that ended does not.
    """
    if isinstance(exc, DatakitError):
        return isinstance(exc, ResolveTimeoutError | ServerFailureError)
    if isinstance(exc, ConnectionError | TimeoutError | gaierror):
        return True
    return isinstance(exc, OSError) and exc.errno in _NETWORK


class Gate:
    """Lets all calls through while an endpoint is up, and one at a time while it is down.

    A call that fails so that `down` says yes closes the gate, and its error goes up. The next
    caller becomes the prober: its own call is the probe. Everyone else waits in order, each up to
    its own `deadline`. When a probe finds the endpoint up, all go on, one after the other so that
    they do not storm it; when it fails, or its caller is cancelled or out of time, the next takes
    over. A prober of which nothing is heard
    for `probe_time` counts as lost. Threads and tasks share a gate; give each endpoint its own.

    base, cap: seconds between probes, the first and the largest ceiling of a full-jitter backoff;
        `cap` wins.
    max_wait: seconds that a caller waits without a nearer `deadline`.
    probe_time: seconds after which a silent prober is replaced.
    spacing: seconds between those who waited when the endpoint is up again, `MAX_SPREAD` for all.
        Source of the default: RDS Proxy documentation, 200 new connections with a token a second.
    down: whether an exception says that the endpoint is away.
    name: what events and errors call it.

    Raises:
        ConfigError: a figure is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        base: float = 0.025,
        cap: float = 0.2,
        max_wait: float = 30.0,
        probe_time: float = 5.0,
        spacing: float = 0.005,
        down: Callable[[Exception], bool] = is_down,
        name: str = "",
        clock: WaitingClock = SYSTEM_CLOCK,
    ) -> None:
        for option, seconds in (
            ("base", base), ("cap", cap), ("max_wait", max_wait), ("spacing", spacing),
        ):  # fmt: skip
            checks.seconds("Gate", option, seconds)
        checks.seconds("Gate", "probe_time", probe_time, above_zero=True)
        checks.function("Gate", "down", down)
        self.name = name
        self._base = base
        self._cap = cap
        self._max_wait = max_wait
        self._probe_time = probe_time
        self._spacing = spacing
        self._room = spacing
        """Seconds between two of those who waited, when the gate opened last."""
        self._down = down
        self._clock = clock
        self._closed = False
        self._generation = 0
        """Grows when the gate opens: a failure of a call begun before says nothing any more."""
        self._closed_at = 0.0
        self._failures = 0
        self._next_probe_at = 0.0
        self._error = ""
        self.start_anew()
        renew_after_fork(self)

    def start_anew(self) -> None:
        """Forget who probes and who waits; called in a forked child, whose threads are gone."""
        self._lock = RLock()  # a task that the garbage collector ends may leave while we hold it
        self._queue = WaitQueue()
        self._prober: Waiter | None = None
        self._prober_lost_at = 0.0

    def __repr__(self) -> str:
        return f"Gate({self.name!r}, {'closed' if self._closed else 'open'})"

    @property
    def closed(self) -> bool:
        """Whether the endpoint is down, as far as is known."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many callers wait for a finding now, the prober left out."""
        return len(self._queue)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, run when the endpoint is up, or as the probe.

        Raises:
            DeadlineExceededError: it stayed down for as long as the caller may wait.
            BaseException: what `fn` raises.
        """
        while True:
            generation = self._generation
            if not self._closed:
                try:
                    return fn(*args, **kwargs)
                except Exception as exc:
                    self._failed(generation, exc)
                    raise
            prober = self._wait_turn()
            if prober is not None:
                try:
                    result = fn(*args, **kwargs)
                except BaseException as exc:
                    self._probed(prober, exc)
                    raise
                self._probed(prober, None)
                return result

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `await fn(*args, **kwargs)`, run when the endpoint is up, or as the probe.

        Raises:
            DeadlineExceededError: it stayed down for as long as the caller may wait.
            BaseException: what `fn` raises.
        """
        while True:
            generation = self._generation
            if not self._closed:
                try:
                    return await fn(*args, **kwargs)
                except Exception as exc:
                    self._failed(generation, exc)
                    raise
            prober = await self._await_turn()
            if prober is not None:
                try:
                    result = await fn(*args, **kwargs)
                except BaseException as exc:
                    self._probed(prober, exc)
                    raise
                self._probed(prober, None)
                return result

    def _wait_turn(self) -> Waiter | None:
        """Return when the caller is to probe, or None when the endpoint is up again."""
        until = self._clock.monotonic() + deadline.bound(self._max_wait)
        turn = Event()
        waiter = self._join(turn.set)
        try:
            while not self._is_due(waiter, until):
                self._clock.wait_for(turn, self._patience(until))
            probes, delay = self._pause(waiter, until)
            if delay:
                paced(self._clock).sleep(delay)
        except BaseException:
            self._abandon(waiter)
            raise
        return waiter if probes else None

    async def _await_turn(self) -> Waiter | None:
        """Return when the caller is to probe, or None when the endpoint is up again."""
        until = self._clock.monotonic() + deadline.bound(self._max_wait)
        turn, wake = task_event()
        waiter = self._join(wake)
        try:
            while not self._is_due(waiter, until):
                await self._clock.await_for(turn, self._patience(until))
            probes, delay = self._pause(waiter, until)
            if delay:
                await paced(self._clock).asleep(delay)
        except BaseException:
            self._abandon(waiter)
            raise
        return waiter if probes else None

    def _join(self, wake: Callable[[], object]) -> Waiter:
        waiter = Waiter(wake)
        with self._lock:
            if self._closed and self._prober is not None and self._heard_of_prober():
                self._queue.join(waiter)
                return waiter
            waiter.granted = True
            if self._closed:
                self._appoint(waiter)
            return waiter

    def _is_due(self, waiter: Waiter, until: float) -> bool:
        """Return whether the wait is over: the gate is open, or it is this caller's turn.

        Raises:
            DeadlineExceededError: the caller's time is over.
        """
        with self._lock:
            if not waiter.granted and not self._heard_of_prober():
                self._queue.leave(waiter)
                waiter.granted = True
                self._appoint(waiter)
            if waiter.granted:
                return True
            if self._clock.monotonic() < until:
                return False
        raise self._out_of_time()

    def _heard_of_prober(self) -> bool:
        return self._clock.monotonic() < self._prober_lost_at

    def _patience(self, until: float) -> float:
        return max(0.0, min(until, self._prober_lost_at) - self._clock.monotonic())

    def _pause(self, waiter: Waiter, until: float) -> tuple[bool, float]:
        """Return whether this caller is to probe, and the seconds until it goes on.

        Raises:
            DeadlineExceededError: the caller's time is over before its probe.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._prober is not waiter:
                turn = waiter.place * self._room
                return False, min(turn, max(0.0, until - now))
            delay = max(0.0, self._next_probe_at - now)
            if now + delay < until:
                self._appoint(waiter)
                return True, delay
        raise self._out_of_time()

    def _out_of_time(self) -> DeadlineExceededError:
        return over(
            f"waiting for {self.name or 'an endpoint'} to come back; "
            f"the last probe failed with {self._error}"
        )

    def _failed(self, generation: int, exc: Exception) -> None:
        """Close the gate if `exc`, of a call let through, says that the endpoint is down."""
        if not self._down(exc):
            return
        with self._lock:
            if self._closed or generation != self._generation:
                return
            self._closed = True
            self._closed_at = self._clock.monotonic()
            self._failures = 0
            self._note_failure(exc)
        events.emit(events.GateClosed, self.name, self._error)

    def _note_failure(self, exc: Exception) -> None:
        self._failures += 1
        self._error = type(exc).__name__
        delay = full_jitter(self._failures, self._base, self._cap, uniform)
        self._next_probe_at = self._clock.monotonic() + delay

    def _probed(self, prober: Waiter, exc: BaseException | None) -> None:
        """Take the finding of a probe: the endpoint is up, still down, or nothing is known."""
        failed = exc if isinstance(exc, Exception) else None
        try:
            still_down = failed is not None and self._down(failed)
        except BaseException:  # the user's function: its bug must not keep the turn
            self._abandon(prober)
            raise
        if exc is None or not (still_down or failed is None or isinstance(exc, DatakitError)):
            self._open()
            return
        with self._lock:
            if self._prober is prober:
                if failed is not None and still_down:
                    self._note_failure(failed)
                self._hand_over()

    def _open(self) -> None:
        with self._lock:
            if not self._closed:
                return
            self._closed = False
            self._generation += 1
            self._prober = None
            self._room = min(self._spacing, MAX_SPREAD / max(1, len(self._queue)))
            self._queue.grant_all()
            elapsed = self._clock.monotonic() - self._closed_at
            probes = self._failures
        events.emit(events.GateOpened, self.name, round(elapsed, 4), probes)

    def _appoint(self, waiter: Waiter) -> None:
        self._prober = waiter
        begins_at = max(self._clock.monotonic(), self._next_probe_at)
        self._prober_lost_at = begins_at + self._probe_time

    def _hand_over(self) -> None:
        self._prober = self._queue.grant_first()
        if self._prober is not None:
            self._appoint(self._prober)

    def _abandon(self, waiter: Waiter) -> None:
        with self._lock:
            if self._prober is waiter:
                self._hand_over()
            else:
                self._queue.leave(waiter)
