"""The loop after a first failure: tenacity's, with our stop, wait and retry strategies.

The success path never comes here: a caller makes the first attempt plainly and makes a
`RetryLoop` of its failure. Sync and async callers share the loop, since it only says how long
to wait.
"""

import sys
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Final

from datakit import events
from datakit._clock import uniform
from datakit.errors import DeadlineExceededError
from datakit.resilience.deadlines import deadline
from datakit.resilience.pace import attempts_exhausted, paced
from datakit.resilience.retry_after import retry_after
from datakit.resilience.verdict import Verdict

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from datakit.resilience.policy import RetryPolicy

_GIVEN_UP: Final = "_datakit_given_up"
"""Where an exception keeps its `_GivenUp`."""

MAX_CAUSES: Final = 100
"""Exceptions looked at in a chain of causes or in groups."""


class _GivenUp:
    """Says that a loop gave up on an exception: no loop around that one, in the same thread or
    task, starts again. Another operation may meet the same object; that is another matter.

    started: the monotonic second at which the loop began.
    """

    __slots__ = ("started", "where")

    def __init__(self, started: float) -> None:
        self.started = started
        self.where = _here()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # means nothing in a pickle or copy


class RetryLoop:
    """Turns each failure of one operation into a wait or into the end.

    started: the policy's clock at the first attempt. operation: what events and notes call it,
    unless the policy has a name.
    """

    def __init__(self, policy: "RetryPolicy", started: float, operation: str) -> None:
        from tenacity import BaseRetrying, DoSleep, RetryCallState, Retrying

        self.clock = paced(policy.clock)
        """What to sleep by."""
        self.verdict = Verdict.FATAL
        self._policy = policy
        self._started = started
        self._operation = policy.name or operation
        self._attempt_began = started
        self._sleep_type = DoSleep
        self._tenacity: BaseRetrying = Retrying(
            retry=self._may_retry, wait=self._wait, stop=self._stop, reraise=True
        )
        self._tenacity.begin()
        self._state = RetryCallState(self._tenacity, None, (), {})
        self._state.start_time -= policy.clock.monotonic() - started
        self._last_failure: BaseException | None = None
        self._is_final = False
        self._taken = 0
        self._reason = ""

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return self._state.attempt_number

    def failed(self, failure: BaseException, verdict: Verdict | None = None) -> float:
        """Return the seconds to wait before the next attempt.

        verdict: where the caller knows more than the policy does.

        Raises:
            BaseException: `failure` itself, with a note, when there is no next attempt.
        """
        last = self._last_failure
        timed_out = isinstance(failure, DeadlineExceededError)
        if timed_out and last is not None and self._left() <= 0:
            raise self._over(last)  # what made the time run out says more than that it did
        self._last_failure = failure
        self._is_final = _was_given_up(failure, self._attempt_began)
        if verdict is None and timed_out and self._policy.classify is None:
            verdict = Verdict.DISCONNECT if self._left() > 0 else Verdict.FATAL  # one attempt's own
        self.verdict = verdict or self._policy.verdict(failure)
        self._state.set_exception((type(failure), failure, failure.__traceback__))
        try:
            return self._schedule(self._tenacity.iter(self._state))
        except BaseException as exc:
            self._give_up(exc)
            raise

    def resume(self) -> None:
        """Do nothing when the wait is over in time for another attempt.

        Raises:
            BaseException: what failed before, with a note, when the wait took too long.
        """
        if self._left() <= 0 and self._last_failure is not None:
            raise self._over(self._last_failure)

    def _over(self, last: BaseException) -> BaseException:
        self._reason = "the deadline is over"
        self._give_up(last)
        return last

    def returned(self, result: object) -> float | None:
        """Return None when `result` is good, else the seconds to wait before the next attempt.

        It is good unless the user's own `retry` strategy says otherwise.

        Raises:
            tenacity.RetryError: it is not, and there is no next attempt.
        """
        if self._policy.retry is not None:
            self._last_failure = None
            self.verdict = Verdict.DISCONNECT
            self._state.set_result(result)
            try:
                action = self._tenacity.iter(self._state)
                if isinstance(action, self._sleep_type):
                    return self._schedule(action)
            except BaseException as exc:
                self._give_up(exc)
                raise
        self.succeeded()
        return None

    def succeeded(self) -> None:
        """Reward the budget: a success brings back what its last retry took."""
        budget = self._policy.budget
        budget.give(self._taken or budget.success)

    def _schedule(self, action: object) -> float:
        assert isinstance(action, self._sleep_type)
        delay = float(action)
        attempt = self.attempts
        self._state.prepare_for_next_attempt()
        self._attempt_began = self._policy.clock.monotonic()
        events.emit(
            events.RetryScheduled, self._operation, attempt, self.verdict.value, round(delay, 4)
        )
        return delay

    def _may_retry(self, state: "RetryCallState") -> bool:
        policy = self._policy
        if self._is_final:
            return False
        if policy.retry is not None:
            again = bool(policy.retry(state))
        else:
            again = policy.rule(self.verdict).attempts != 1
        self._reason = "" if again else "not to be tried again"
        return again

    def _wait(self, state: "RetryCallState") -> float:
        policy = self._policy
        failure = self._last_failure
        asked = None if failure is None else retry_after(failure, policy.clock.wall())
        if policy.wait is not None:
            return max(0.0, float(policy.wait(state))) + (asked or 0.0)
        return policy.delay(self.verdict, state.attempt_number, uniform, asked)

    def _stop(self, state: "RetryCallState") -> bool:
        self._reason = self._stopped_by(state)
        return bool(self._reason)

    def _stopped_by(self, state: "RetryCallState") -> str:
        policy = self._policy
        if self._has_no_more(state):
            return "no more attempts allowed"
        if state.upcoming_sleep >= self._left():
            return "the deadline is near"
        if policy.rule(self.verdict).charged:
            cost = policy.budget.cost(self.verdict)
            if not policy.budget.take(cost):
                events.emit(events.BudgetDenied, self._operation, self.verdict.value, cost)
                return "the retry budget is empty"
            self._taken = cost
        return ""

    def _has_no_more(self, state: "RetryCallState") -> bool:
        policy, attempt = self._policy, state.attempt_number
        if attempts_exhausted(attempt):
            return True
        if policy.stop is not None:
            return bool(policy.stop(state))
        if policy.retry is not None:
            return attempt >= policy.attempts
        return not policy.allows(self.verdict, attempt)

    def _left(self) -> float:
        """Return the seconds until the operation's deadline, or the enclosing one."""
        now = self.clock.monotonic()
        own = self._started + self._policy.deadline - now
        enclosing = deadline.remaining()
        if enclosing is None:
            return own
        skipped = now - self._policy.clock.monotonic()
        return min(own, enclosing - skipped)

    def _give_up(self, failure: BaseException) -> None:
        if self._is_final:
            return
        elapsed = self.clock.monotonic() - self._started
        failure.__dict__[_GIVEN_UP] = _GivenUp(self._started)
        reason = f" ({self._reason})" if self._reason else ""
        with suppress(Exception):  # a frozen exception takes no notes
            failure.add_note(
                f"datakit: {self._operation} gave up after {self.attempts} attempt(s) in "
                f"{elapsed:.2f} s; last verdict: {self.verdict.value}{reason}"
            )
        events.emit(
            events.RetryGaveUp,
            self._operation,
            self.attempts,
            self.verdict.value,
            round(elapsed, 4),
        )


def name_of(fn: object) -> str:
    """Return what events and notes call the operation `fn`."""
    inner = getattr(fn, "func", fn)  # a functools.partial
    return getattr(inner, "__qualname__", type(inner).__name__)


def _was_given_up(failure: BaseException, since: float) -> bool:
    """Return whether a loop inside this one, begun after `since`, gave up on its cause."""
    return any(
        mark is not None and mark.started >= since and mark.where == _here()
        for mark in (step.__dict__.get(_GIVEN_UP) for step in _made_of(failure))
    )


def _made_of(failure: BaseException) -> list[BaseException]:
    """Return `failure`, its causes, contexts and members of groups, each once."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [failure]
    while ahead and len(found) < MAX_CAUSES:
        step = ahead.pop()
        if step is None or any(step is known for known in found):
            continue
        found.append(step)
        ahead += [step.__cause__, step.__context__]
        if isinstance(step, BaseExceptionGroup):
            ahead += step.exceptions
    return found


def _here() -> tuple[int, int]:
    """Return what tells this thread and task from others."""
    asyncio = sys.modules.get("asyncio")
    try:
        task = asyncio.current_task() if asyncio else None
    except RuntimeError:  # no event loop runs here
        task = None
    return get_ident(), id(task)
