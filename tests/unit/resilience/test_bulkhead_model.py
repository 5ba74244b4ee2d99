"""The bulkhead beside its description: threads and tasks that come, wait, end and are cancelled."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.resilience.callers import Caller, Crowd, TaskCaller

from datakit import Bulkhead
from datakit.errors import DeadlineExceededError, OverloadError
from datakit.testing import FakeClock

LIMIT, MAX_WAITING, MAX_WAIT = 2, 3, 10.0


class BulkheadModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.bulkhead = Bulkhead(
            LIMIT, max_wait=MAX_WAIT, max_waiting=MAX_WAITING, clock=self.clock
        )
        self.crowd = Crowd(self.bulkhead, self.clock)
        self.running: list[Caller] = []
        self.queue: list[tuple[Caller, float]] = []
        self.refused: list[Caller] = []

    def teardown(self) -> None:
        self.crowd.disperse()
        assert (self.bulkhead.running, self.bulkhead.waiting) == (0, 0)

    @rule(kind=st.sampled_from(["thread", "task"]), limit=st.sampled_from([None, 4.0, 0.0]))
    def start(self, kind: str, limit: float | None) -> None:
        caller = self.crowd.start(kind, limit)
        if limit == 0.0:
            self.crowd.until_ended(caller)
            assert isinstance(caller.outcome, DeadlineExceededError)
            return
        if len(self.running) < LIMIT:
            self.running.append(caller)
        elif len(self.queue) < MAX_WAITING:
            wait = MAX_WAIT if limit is None else limit
            self.queue.append((caller, self.clock.monotonic() + wait))
        else:
            self.refused.append(caller)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from([7, ValueError(), SystemExit(), "cancel"]))
    def end(self, data: st.DataObject, outcome: object) -> None:
        caller = data.draw(st.sampled_from(self.running))
        self.running.remove(caller)
        if self.queue:
            self.running.append(self.queue.pop(0)[0])
        if outcome == "cancel" and isinstance(caller, TaskCaller):
            caller.cancel()
        else:
            caller.end(outcome)
        self.settle()
        self.crowd.until_ended(caller)

    @precondition(lambda self: any(isinstance(caller, TaskCaller) for caller, _ in self.queue))
    @rule(data=st.data())
    def cancel_a_waiting_task(self, data: st.DataObject) -> None:
        tasks = [place for place in self.queue if isinstance(place[0], TaskCaller)]
        place = data.draw(st.sampled_from(tasks))
        self.queue.remove(place)
        place[0].cancel()  # type: ignore[attr-defined]
        self.settle()
        self.crowd.until_ended(place[0])

    @precondition(lambda self: self.running and self.queue)
    @rule(data=st.data())
    def end_one_and_cancel_the_one_it_is_granted_to(self, data: st.DataObject) -> None:
        """The grant reaches a task that is cancelled before it can use it."""
        caller = data.draw(st.sampled_from(self.running))
        (heir, _), *rest = self.queue
        if not (isinstance(caller, TaskCaller) and isinstance(heir, TaskCaller)):
            return
        self.running.remove(caller)
        self.queue = rest
        if self.queue:
            self.running.append(self.queue.pop(0)[0])
        caller.task.add_done_callback(lambda _: heir.cancel())
        caller.end(None)
        self.settle()
        self.crowd.until_ended(heir)

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 6.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.monotonic()
        self.refused += [caller for caller, until in self.queue if until <= now]
        self.queue = [(caller, until) for caller, until in self.queue if until > now]
        self.settle()

    @invariant()
    def settle(self) -> None:
        def agrees() -> bool:
            bulkhead = self.bulkhead
            return (
                (bulkhead.running, bulkhead.waiting) == (len(self.running), len(self.queue))
                and all(caller.begun and not caller.ended for caller in self.running)
                and not any(caller.begun or caller.ended for caller, _ in self.queue)
                and all(isinstance(caller.outcome, OverloadError) for caller in self.refused)
                and not any(caller.begun for caller in self.refused)
            )

        self.crowd.until(
            agrees,
            lambda: (
                f"{self.bulkhead.running} run, {self.bulkhead.waiting} wait; expected "
                f"{self.running} and {self.queue}, refused {self.refused}"
            ),
        )


TestBulkheadModel = BulkheadModel.TestCase
TestBulkheadModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
