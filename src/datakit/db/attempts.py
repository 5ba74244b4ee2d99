"""What the end of a transaction's attempt means: done, again, or an error. No I/O."""

from types import FrameType

from datakit import events
from datakit._clock import Clock
from datakit.errors import CommitUnknownError, DeadlineExceededError
from datakit.resilience import RetryPolicy, Verdict
from datakit.resilience.reentry import LoopHead, comes_round, is_generator
from datakit.resilience.retry import RetryLoop

COMMIT_IN_DOUBT = frozenset({Verdict.DISCONNECT, Verdict.NOT_SENT, Verdict.COMMIT_UNKNOWN})
"""Verdicts that during COMMIT leave it open whether the server committed."""


class Attempts:
    """The history of one transaction.

    policy: one of `policies.for_transactions`.
    idempotent: the caller says that running a committed body again does no harm. read_only: the
    transaction was opened so, which makes the server's refusal to write the caller's own fault.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        idempotent: bool = False,
        read_only: bool = False,
    ) -> None:
        self._policy = policy
        self._idempotent = idempotent
        self._read_only = read_only
        self._started = policy.clock.monotonic()
        self._loop: RetryLoop | None = None
        self.delay = 0.0
        self.head: LoopHead | None = None
        """Where the caller asked for the current attempt."""

    @property
    def remaining(self) -> float | None:
        """Seconds left for another attempt; None before the first failure."""
        if self._loop is None:
            return None
        return max(0.0, self._started + self._policy.deadline - self._loop.clock.monotonic())

    @property
    def clock(self) -> Clock:
        """What to wait `delay` seconds by."""
        return self._loop.clock if self._loop else self._policy.clock

    def verdict(self, exc: BaseException) -> Verdict:
        """Return what `exc` means in this transaction."""
        verdict = self._policy.verdict(exc)
        own_fault = verdict is Verdict.WRITER_MOVED and self._read_only
        return Verdict.FATAL if own_fault else verdict

    def again_after_body(self, exc: BaseException, frame: FrameType) -> bool:
        """Return whether the body, failed by `exc` before COMMIT, runs again.

        Raises:
            BaseException: `exc` itself, with a note, when the policy allows no more.
        """
        verdict = self.verdict(exc)
        if not self._policy.allows(verdict, 1) or not self._loops(frame, exc):
            return False
        self._schedule(exc, verdict)
        return True

    def after_commit(self, exc: Exception, frame: FrameType) -> None:
        """Return when the body, whose COMMIT failed by `exc`, runs again.

        Raises:
            CommitUnknownError: the link was lost, and to run it again might do it twice.
            Exception: `exc` itself, when it runs no more.
        """
        out_of_time = isinstance(exc, DeadlineExceededError)  # the answer was not waited for
        verdict = self.verdict(exc)
        if verdict not in COMMIT_IN_DOUBT and not out_of_time:
            if not self._policy.allows(verdict, 1) or not self._loops(frame, exc):
                raise exc
            return self._schedule(exc, verdict)
        rerun = self._idempotent and not out_of_time and self._loops(frame, exc)
        events.emit(events.CommitUnknown, rerun)
        if not rerun:
            raise CommitUnknownError(
                "the link was lost during COMMIT, so the transaction is either committed or "
                "gone; look for its effect before running it again, or pass idempotent=True "
                "when running it twice does no harm"
            ) from exc
        return self._schedule(exc, Verdict.DISCONNECT)

    def _schedule(self, exc: BaseException, verdict: Verdict) -> None:
        self._loop = self._loop or RetryLoop(self._policy, self._started, "transaction")
        attempt = self._loop.attempts
        self.delay = self._loop.failed(exc, verdict)
        events.emit(events.TransactionRetried, attempt + 1, verdict.value)

    def _loops(self, frame: FrameType, exc: BaseException) -> bool:
        if not is_generator(frame) and comes_round(frame, self.head):
            return True
        exc.add_note(
            "datakit: not run again, since the code around `with tx` is a generator or may leave "
            "the loop by return or break; let the body reach its end and return after the loop"
        )
        return False
