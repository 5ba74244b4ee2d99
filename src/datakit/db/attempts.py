"""What the end of a transaction's attempt means: done, again, or an error. No I/O."""

from os import urandom
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
    idempotent: the caller says that running a committed body again does no harm. exactly_once: the
    transaction writes a token. read_only: the transaction was opened so, which makes the server's
    refusal to write the caller's own fault.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        idempotent: bool = False,
        exactly_once: bool = False,
        read_only: bool = False,
    ) -> None:
        self._policy = policy
        self._idempotent = idempotent
        self._read_only = read_only
        self._started = policy.clock.monotonic()
        self._loop: RetryLoop | None = None
        self.token = urandom(16).hex() if exactly_once else None
        """What the transaction is known by in the table `datakit_commits`; None without one."""
        self.delay = 0.0
        self.head: LoopHead | None = None
        """Where the caller asked for the current attempt."""

    @property
    def has_failed(self) -> bool:
        """Whether there was a failure: what follows has the time that is left."""
        return self._loop is not None

    @property
    def remaining(self) -> float:
        """Seconds left for another attempt, or for the question what became of a COMMIT."""
        return max(0.0, self._started + self._policy.deadline - self.clock.monotonic())

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

    def after_commit(self, exc: Exception, frame: FrameType, *, divided: bool = False) -> None:
        """Return when the body, whose COMMIT failed by `exc`, runs again.

        divided: whether the COMMIT was several, one of which may have come through.

        Raises:
            CommitUnknownError: the link was lost or `divided`, and to run it again might do it
                twice.
            Exception: `exc` itself, when it runs no more.
        """
        if not divided and not self.is_in_doubt(exc):
            return self._again_after(exc, self.verdict(exc), frame)
        may_rerun = self._idempotent and not isinstance(exc, DeadlineExceededError)
        rerun = may_rerun and self._loops(frame, exc)
        events.emit(events.CommitUnknown, rerun)
        if not rerun:
            error = self.unknown()
            if divided:
                error.add_note("datakit: the session has several databases; one may be committed")
            raise error from exc
        return self._schedule(exc, Verdict.DISCONNECT)

    def is_in_doubt(self, exc: Exception) -> bool:
        """Return whether a COMMIT that failed by `exc` may be committed."""
        if isinstance(exc, DeadlineExceededError):
            return True  # the answer was not waited for
        return self.verdict(exc) in COMMIT_IN_DOUBT

    def after_look_up(self, exc: Exception, committed: bool, frame: FrameType) -> None:
        """Return when it is settled what became of a COMMIT that failed by `exc`.

        It is done, or gone and the body runs again.

        Raises:
            Exception: `exc` itself, when it is gone and runs no more.
        """
        events.emit(events.CommitResolved, committed)
        if not committed:
            self._again_after(exc, Verdict.DISCONNECT, frame)

    def unknown(self, failure: Exception | None = None) -> CommitUnknownError:
        """Return the error for a transaction of which nobody knows whether it is committed.

        failure: what ended the attempt to find out.
        """
        advice = (
            "pass exactly_once=True to have that settled, or idempotent=True when running it twice "
            "does no harm"
            if self.token is None
            else "datakit.db.exactly_once.was_committed(engine, error.token) tells which"
        )
        error = CommitUnknownError(
            "the link was lost during COMMIT, so the transaction is either committed or gone; "
            f"look for its effect before running it again; {advice}",
            token=self.token,
        )
        if failure is not None:
            error.add_note(f"datakit: looking for the token failed: {failure}")
        return error

    def _again_after(self, exc: Exception, verdict: Verdict, frame: FrameType) -> None:
        if not self._policy.allows(verdict, 1) or not self._loops(frame, exc):
            raise exc
        self._schedule(exc, verdict)

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
