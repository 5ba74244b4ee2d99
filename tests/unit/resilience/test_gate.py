"""The gate: while an endpoint is down one caller probes it and the others wait."""

import asyncio
import errno
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.resilience.callers import Caller, Crowd, TaskCaller

from datakit import RetryPolicy, deadline, events
from datakit.errors import (
    ConfigError,
    DeadlineExceededError,
    OverloadError,
    ResolveTimeoutError,
)
from datakit.resilience import Gate
from datakit.resilience.gate import MAX_SPREAD
from datakit.testing import FakeClock, no_sleep

MAX_WAIT, PROBE_TIME = 11.70713, 4.0


class Down(ConnectionError):
    pass


class GateModel(RuleBasedStateMachine):
    """The gate beside its description: threads and tasks, a prober that fails, ends or is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.gate = Gate(
            base=0, max_wait=MAX_WAIT, probe_time=PROBE_TIME, spacing=0, clock=self.clock
        )
        self.crowd = Crowd(self.gate, self.clock)
        self.is_down = False
        self.generation = 0
        self.free: dict[Caller, int] = {}
        self.prober: Caller | None = None
        self.lost_at = 0.0
        self.lost: list[Caller] = []
        self.queue: list[tuple[Caller, float]] = []
        self.late: list[Caller] = []

    def teardown(self) -> None:
        self.crowd.disperse()
        assert self.gate.waiting == 0
        assert self.gate._prober is None

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def appoint(self, caller: Caller | None) -> None:
        self.prober, self.lost_at = caller, self.now + PROBE_TIME

    @rule(kind=st.sampled_from(["thread", "task", "task"]), limit=st.sampled_from([None, 3.14159]))
    def start(self, kind: str, limit: float | None) -> None:
        caller = self.crowd.start(kind, limit)
        if not self.is_down:
            self.free[caller] = self.generation
        elif self.prober is None or self.now >= self.lost_at:
            self.lost += [self.prober] if self.prober else []
            self.appoint(caller)
        else:
            self.queue.append((caller, self.now + (MAX_WAIT if limit is None else limit)))
        self.settle()

    @precondition(lambda self: self.free)
    @rule(data=st.data(), outcome=st.sampled_from([7, Down(), Down(), ValueError(), SystemExit()]))
    def end_a_call_let_through(self, data: st.DataObject, outcome: object) -> None:
        caller = data.draw(st.sampled_from(list(self.free)))
        generation = self.free.pop(caller)
        if isinstance(outcome, Down) and generation == self.generation:
            self.is_down = True
        caller.end(outcome)
        self.settle()
        self.crowd.until_ended(caller)

    def up(self) -> None:
        if self.is_down:
            self.is_down = False
            self.generation += 1
            self.free |= {caller: self.generation for caller, _ in self.queue}
            self.queue, self.prober = [], None

    def hand_over(self) -> None:
        self.appoint(self.queue.pop(0)[0] if self.queue else None)

    @precondition(lambda self: self.prober)
    @rule(outcome=st.sampled_from([7, ValueError(), Down(), OverloadError(), SystemExit(), None]))
    def end_the_probe(self, outcome: object) -> None:
        caller = self.prober
        assert caller is not None
        if outcome is None and isinstance(caller, TaskCaller):
            caller.cancel()
            self.hand_over()
        else:
            caller.end(outcome)
            says_up = outcome is None or isinstance(outcome, int | ValueError)
            self.up() if says_up else self.hand_over()
        self.settle()
        self.crowd.until_ended(caller)

    @precondition(lambda self: self.lost)
    @rule(outcome=st.sampled_from([7, Down()]))
    def end_a_lost_probe(self, outcome: object) -> None:
        caller = self.lost.pop()
        caller.end(outcome)
        if outcome == 7:
            self.up()
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

    @precondition(lambda self: len(self.queue) > 1)
    @rule()
    def cancel_the_heir_in_the_instant_of_the_probes_end(self) -> None:
        heir = self.queue[0][0]
        caller = self.prober
        if not (isinstance(caller, TaskCaller) and isinstance(heir, TaskCaller)):
            return
        self.queue.pop(0)
        self.hand_over()
        caller.task.add_done_callback(lambda _: heir.cancel())
        caller.end(Down())
        self.settle()
        self.crowd.until_ended(heir)

    @rule()
    def advance_to_the_next_thing_that_time_brings(self) -> None:
        times = [until for _, until in self.queue]
        if self.prober is not None and self.queue:
            times.append(self.lost_at)
        if not times:
            self.clock.advance(1.0)
            return
        self.clock.advance(max(0.0, min(times) - self.now))
        if self.prober is not None and self.queue and self.now >= self.lost_at:
            self.lost.append(self.prober)
            waiting = [caller for caller, _ in self.queue]
            self.crowd.until(
                lambda: sum(caller.begun for caller in waiting) == 1,
                lambda: "nobody takes over from the lost prober",
            )
            (heir,) = (caller for caller in waiting if caller.begun)
            self.queue = [place for place in self.queue if place[0] is not heir]
            self.appoint(heir)
        self.late += [caller for caller, until in self.queue if until <= self.now]
        self.queue = [place for place in self.queue if place[1] > self.now]
        self.settle()

    @invariant()
    def settle(self) -> None:
        inside = [*self.free, *self.lost, *([self.prober] if self.prober else [])]

        def agrees() -> bool:
            return (
                self.gate.closed == self.is_down
                and self.gate.waiting == len(self.queue)
                and all(caller.begun and not caller.ended for caller in inside)
                and not any(caller.begun or caller.ended for caller, _ in self.queue)
                and all(isinstance(caller.outcome, DeadlineExceededError) for caller in self.late)
                and not any(caller.begun for caller in self.late)
            )

        self.crowd.until(
            agrees,
            lambda: (
                f"{self.gate}, {self.gate.waiting} wait; expected down={self.is_down}, inside "
                f"{inside}, waiting {self.queue}, late {self.late}"
            ),
        )


TestGateModel = GateModel.TestCase
TestGateModel.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def shut(clock: FakeClock, **options: float) -> Gate:
    gate = Gate(name="db", clock=clock, **options)  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(Down):
        gate.call(fail)
    assert gate.closed
    return gate


def fail() -> None:
    raise Down


def test_probes_are_spaced_by_a_backoff_that_doubles_to_its_cap() -> None:
    clock = FakeClock()
    gate = shut(clock, base=0.025, cap=0.2, max_wait=1e6)
    for _ in range(2_000):
        with pytest.raises(Down):
            gate.call(fail)
    assert max(clock.sleeps[:1]) <= 0.025
    assert max(clock.sleeps[:2]) <= 0.05
    assert 0.19 < max(clock.sleeps) <= 0.2
    assert sum(clock.sleeps) / len(clock.sleeps) == pytest.approx(0.1, rel=0.1)


def test_with_a_policy_around_it_a_caller_probes_until_the_endpoint_is_up() -> None:
    clock = FakeClock()
    gate, outcomes = Gate(clock=clock), [Down(), Down(), Down(), Down()]

    def connect() -> int:
        if outcomes:
            raise outcomes.pop()
        return 7

    assert RetryPolicy(attempts=5, clock=clock).call(gate.call, connect) == 7
    assert not gate.closed


def test_a_probe_that_could_not_be_made_in_time_is_not_waited_for() -> None:
    clock = FakeClock()
    gate = shut(clock, base=60.0, cap=60.0)
    with deadline(0.001, clock=clock), pytest.raises(DeadlineExceededError, match="db") as caught:
        gate.call(pytest.fail)
    assert "Down" in str(caught.value)
    assert clock.sleeps == ()
    assert gate._prober is None


def test_a_failure_of_a_call_from_before_the_gate_opened_does_not_close_it() -> None:
    clock = FakeClock()
    gate = Gate(base=0, clock=clock)

    def outlived() -> None:
        with pytest.raises(Down):
            gate.call(fail)
        gate.call(lambda: None)
        raise Down

    with pytest.raises(Down):
        gate.call(outlived)
    assert not gate.closed


def test_a_hundred_threads_make_one_attempt_at_a_time_while_it_is_down() -> None:
    gate = Gate(base=0.001, cap=0.002)
    lock, up = threading.Lock(), threading.Event()
    inside = most = attempts = 0

    def connect() -> int:
        nonlocal inside, most, attempts
        with lock:
            inside += 1
            attempts += 1
            if gate.closed:
                most = max(most, inside)
        try:
            if not up.wait(0.002):
                raise Down
            return 7
        finally:
            with lock:
                inside -= 1

    with pytest.raises(Down):
        gate.call(connect)

    def caller(_: int) -> int:
        policy = RetryPolicy(attempts=10**6, base=0.001, cap=0.002)
        return policy.call(gate.call, connect)

    with ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(caller, n) for n in range(100)]
        while attempts < 20:
            up.wait(0.001)
        up.set()
        assert {call.result() for call in calls} == {7}
    assert most == 1


async def test_those_who_waited_come_back_one_after_the_other() -> None:
    """A thousand processes that all go on at once would storm a new writer."""
    clock = FakeClock()
    gate = Gate(base=0, cap=0, spacing=0.2, clock=clock)
    up = asyncio.Event()

    async def fail() -> None:
        raise Down

    async def probe() -> None:
        await up.wait()

    async def arrive() -> None:
        pass

    with pytest.raises(Down):
        await gate.acall(fail)
    prober = asyncio.create_task(gate.acall(probe))
    await asyncio.sleep(0)
    crowd = [asyncio.create_task(gate.acall(arrive)) for _ in range(6)]
    await asyncio.sleep(0)
    assert gate.waiting == 6
    up.set()
    await asyncio.gather(prober, *crowd)
    room = MAX_SPREAD / 6  # less than the spacing, so that nobody waits long
    assert clock.sleeps == pytest.approx([room * place for place in range(1, 6)])


async def test_a_task_cancelled_at_any_await_leaves_the_turn_to_the_next() -> None:
    for victim in range(3):
        for steps in range(12):
            clock = FakeClock()
            gate = Gate(base=0.001, clock=clock)
            with pytest.raises(Down):
                gate.call(fail)

            async def connect() -> int:
                for _ in range(3):
                    await asyncio.sleep(0)
                return 7

            callers = [asyncio.create_task(gate.acall(connect)) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            callers[victim].cancel()
            results = await asyncio.gather(*callers, return_exceptions=True)
            others = [result for n, result in enumerate(results) if n != victim]
            assert others == [7, 7]
            assert (gate.closed, gate.waiting, gate._prober) == (False, 0, None)


async def test_a_prober_whose_event_loop_is_gone_is_replaced() -> None:
    gate = Gate(base=0, probe_time=0.05)
    with pytest.raises(Down):
        gate.call(fail)
    left_behind: list[asyncio.Task[object]] = []

    def abandon_a_prober() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(gate.acall(asyncio.sleep, 60))
        loop.run_until_complete(asyncio.wait([task], timeout=0.01))
        left_behind.append(task)
        loop.close()

    await asyncio.to_thread(abandon_a_prober)
    assert await gate.acall(asyncio.sleep, 0, 7) == 7
    for task in left_behind:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_forked_child_does_not_wait_for_its_parents_prober() -> None:
    gate = Gate(base=0)
    with pytest.raises(Down):
        gate.call(fail)

    def in_child() -> int:
        child = os.fork()
        if child == 0:
            os._exit(gate.call(lambda: 42))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert gate.call(in_child) == 42


def test_it_tells_when_it_closes_and_opens() -> None:
    clock, seen = FakeClock(), list[events.Event]()
    unsubscribe = events.subscribe(seen.append)
    gate = shut(clock, base=0)
    clock.advance(3.0)
    gate.call(lambda: None)
    unsubscribe()
    assert seen == [events.GateClosed("db", "Down"), events.GateOpened("db", 3.0, 1)]


def test_without_sleeping_a_probe_follows_at_once() -> None:
    gate = Gate(base=3600.0, cap=3600.0, max_wait=1e5)
    with pytest.raises(Down):
        gate.call(fail)
    with no_sleep():
        assert gate.call(lambda: 7) == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [("base", -1), ("cap", "x"), ("max_wait", float("nan")), ("probe_time", 0), ("down", 7)],
)
def test_an_argument_of_no_use_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"Gate\({name}="):
        Gate(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "closes"),
    [
        (ConnectionResetError(), True), (TimeoutError(), True), (socket.gaierror(), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True), (ResolveTimeoutError(), True),
        (FileNotFoundError(), False), (RuntimeError("out of stock"), False),
        (ValueError(), False), (DeadlineExceededError(), False), (OverloadError(), False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_only_errors_of_the_link_close_it(error: Exception, closes: bool) -> None:
    gate = Gate(clock=FakeClock())

    def fn() -> None:
        raise error

    with pytest.raises(type(error)):
        gate.call(fn)
    assert gate.closed is closes


def test_a_down_that_raises_keeps_nobodys_turn() -> None:
    verdicts = [True]

    def broken(_: Exception) -> bool:
        return verdicts.pop()  # and then IndexError

    gate = Gate(base=0, down=broken, clock=FakeClock())
    with pytest.raises(Down):
        gate.call(fail)
    with pytest.raises(IndexError):
        gate.call(fail)
    assert gate._prober is None
    assert gate.call(lambda: 7) == 7


def test_the_finding_of_a_prober_that_was_replaced_hands_nothing_over() -> None:
    clock = FakeClock()
    gate = shut(clock, base=0, probe_time=1.0)
    inside, release = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        release.wait(10)
        raise Down

    def second() -> int:
        release.set()
        lost.join(10)
        assert gate._prober is not None  # still this one's turn
        return 7

    def replaced() -> None:
        with pytest.raises(Down):
            gate.call(slow)

    lost = threading.Thread(target=replaced)
    lost.start()
    assert inside.wait(10)
    clock.advance(1.0)
    assert gate.call(second) == 7
    assert not gate.closed
