"""The loop after a first failure: tenacity's, with our stop, wait and retry strategies.

The success path never comes here: a caller makes the first attempt plainly and makes a
`RetryLoop` of its failure. Sync and async callers share the loop, since it only says how long
to wait.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from datakit import events
from datakit._clock import SYSTEM_CLOCK, Clock, uniform
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline
from datakit.resilience.policy import RetryPolicy
from datakit.resilience.verdict import Verdict

if TYPE_CHECKING:
    from tenacity import RetryCallState

P = ParamSpec("P")
T = TypeVar("T")
_FINAL = "_datakit_final"
"""Marks an exception that a loop has given up on, so that no loop around it starts again."""

Classify = Callable[[BaseException], Verdict]


class RetryLoop:
    """Turns each failure of one operation into a wait or into the end.

    operation: what events and notes call it. started: the clock's monotonic reading at the
    first attempt. classify: gives the verdict of a failure.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        classify: Classify,
        *,
        operation: str,
        started: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        from tenacity import BaseRetrying, DoSleep, RetryCallState, Retrying

        self._policy = policy
        self._classify = classify
        self._operation = operation
        self._started = started
        self._clock = clock
        left = deadline.remaining()
        now = clock.monotonic()
        self._expires_at = min(started + policy.deadline, now + (left if left is not None else 1e9))
        self._sleep_type = DoSleep
        self._tenacity: BaseRetrying = Retrying(
            retry=self._may_retry, wait=self._wait, stop=self._stop, reraise=True
        )
        self._tenacity.begin()
        self._state = RetryCallState(self._tenacity, None, (), {})
        self._last_failure: BaseException | None = None
        self.verdict = Verdict.FATAL

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return self._state.attempt_number

    def next_delay(self, failure: BaseException, verdict: Verdict | None = None) -> float:
        """Return the seconds to wait before the next attempt.

        verdict: where the caller knows more than `classify` does.

        Raises:
            BaseException: `failure` itself, with a note, when there is no next attempt.
        """
        last = self._last_failure
        if isinstance(failure, DeadlineExceededError) and last is not None:
            self._give_up(last)  # what made the time run out says more than that it did
            raise last
        self._last_failure = failure
        self.verdict = Verdict.FATAL if _is_final(failure) else verdict or self._classify(failure)
        self._state.set_exception((type(failure), failure, failure.__traceback__))
        try:
            action = self._tenacity.iter(self._state)
        except BaseException:
            self._give_up(failure)
            raise
        assert isinstance(action, self._sleep_type)
        delay = float(action)
        attempt = self.attempts
        self._state.prepare_for_next_attempt()
        events.emit(
            events.RetryScheduled, self._operation, attempt, self.verdict.value, round(delay, 4)
        )
        return delay

    def _may_retry(self, state: "RetryCallState") -> bool:
        return self._policy.allows(self.verdict, state.attempt_number)

    def _wait(self, state: "RetryCallState") -> float:
        return self._policy.delay(self.verdict, state.attempt_number, uniform)

    def _stop(self, state: "RetryCallState") -> bool:
        return self._clock.monotonic() + state.upcoming_sleep >= self._expires_at

    def _give_up(self, failure: BaseException) -> None:
        if _is_final(failure):
            return
        elapsed = self._clock.monotonic() - self._started
        failure.__dict__[_FINAL] = True
        failure.add_note(
            f"datakit: {self._operation} gave up after {self.attempts} attempt(s) in "
            f"{elapsed:.2f} s; last verdict: {self.verdict.value}"
        )
        events.emit(
            events.RetryGaveUp,
            self._operation,
            self.attempts,
            self.verdict.value,
            round(elapsed, 4),
        )


def _is_final(failure: BaseException) -> bool:
    """Return whether an inner loop gave up on `failure` or on what it was made from."""
    step: BaseException | None = failure
    while step is not None:
        if _FINAL in step.__dict__:
            return True
        step = step.__cause__
    return False


def call(
    policy: RetryPolicy,
    classify: Classify,
    operation: str,
    fn: Callable[[], T],
    clock: Clock = SYSTEM_CLOCK,
) -> T:
    """Return `fn()`, tried again as policy and verdicts allow.

    Raises:
        BaseException: what the last attempt raised, with a note.
    """
    started = clock.monotonic()
    loop: RetryLoop | None = None
    while True:
        try:
            return fn()
        except Exception as exc:  # noqa: BLE001 - the loop raises it again or waits
            loop = loop or RetryLoop(
                policy, classify, operation=operation, started=started, clock=clock
            )
            delay = loop.next_delay(exc)
        clock.sleep(delay)


async def acall(
    policy: RetryPolicy,
    classify: Classify,
    operation: str,
    fn: Callable[[], Awaitable[T]],
    clock: Clock = SYSTEM_CLOCK,
) -> T:
    """Return `await fn()`, tried again as policy and verdicts allow.

    Raises:
        BaseException: what the last attempt raised, with a note.
    """
    started = clock.monotonic()
    loop: RetryLoop | None = None
    while True:
        try:
            return await fn()
        except Exception as exc:  # noqa: BLE001 - the loop raises it again or waits
            loop = loop or RetryLoop(
                policy, classify, operation=operation, started=started, clock=clock
            )
            delay = loop.next_delay(exc)
        await clock.asleep(delay)
