"""Threads and tasks that call through a strategy and stay inside until a test says how to end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from datakit.resilience import deadline
from datakit.testing import FakeClock

PATIENCE = 5.0
"""Real seconds after which two states are taken to differ for good."""


class Strategy(Protocol):
    """What the twins of every strategy look like."""

    def call(self, fn: Callable[[], Any], /) -> Any: ...
    def acall(self, fn: Callable[[], Awaitable[Any]], /) -> Awaitable[Any]: ...


class Caller:
    """One call, by a thread or a task."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = False
        self.outcome: object = None
        self.ended = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.number}"

    def end(self, outcome: object) -> None:
        """Let the function called return `outcome`, or raise it."""
        raise NotImplementedError


class ThreadCaller(Caller):
    def __init__(self, number: int, strategy: Strategy, limit: float | None, clock: FakeClock):
        super().__init__(number)
        self._inbox: SimpleQueue[object] = SimpleQueue()
        self._thread = Thread(target=self._run, args=(strategy, limit, clock), daemon=True)
        self._thread.start()

    def _run(self, strategy: Strategy, limit: float | None, clock: FakeClock) -> None:
        try:
            with nullcontext() if limit is None else deadline(limit, clock=clock):
                self.outcome = strategy.call(self._inside)
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            self.outcome = exc
        self.ended = True

    def _inside(self) -> object:
        self.begun = True
        return _as_said(self._inbox.get())

    def end(self, outcome: object) -> None:
        self._inbox.put(outcome)


class TaskCaller(Caller):
    def __init__(
        self, number: int, strategy: Strategy, limit: float | None, clock: FakeClock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        super().__init__(number)
        self._said: asyncio.Future[object] = loop.create_future()
        self.task = loop.create_task(self._run(strategy, limit, clock))

    async def _run(self, strategy: Strategy, limit: float | None, clock: FakeClock) -> None:
        try:
            with nullcontext() if limit is None else deadline(limit, clock=clock):
                self.outcome = await strategy.acall(self._inside)
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            self.outcome = exc
        self.ended = True

    async def _inside(self) -> object:
        self.begun = True
        return _as_said(await self._said)

    def end(self, outcome: object) -> None:
        self._said.set_result(outcome)

    def cancel(self) -> None:
        self.task.cancel()


def _as_said(outcome: object) -> object:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class Crowd:
    """Callers of one strategy; their tasks run only while something is awaited here."""

    def __init__(self, strategy: Strategy, clock: FakeClock) -> None:
        self._strategy = strategy
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self.callers: list[Caller] = []

    def start(self, kind: str, limit: float | None = None) -> Caller:
        number = len(self.callers)
        caller = (
            ThreadCaller(number, self._strategy, limit, self._clock)
            if kind == "thread"
            else TaskCaller(number, self._strategy, limit, self._clock, self._loop)
        )
        self.callers.append(caller)
        return caller

    def until(self, agrees: Callable[[], bool], explain: Callable[[], str]) -> None:
        """Let tasks and threads go on until `agrees()` holds, and see that it stays so."""
        give_up_at = time.monotonic() + PATIENCE
        held = 0
        while held < 3:
            self._loop.run_until_complete(asyncio.sleep(0))
            held = held + 1 if agrees() else 0
            if not held:
                assert time.monotonic() < give_up_at, explain()
                time.sleep(0.0002)

    def until_ended(self, caller: Caller) -> None:
        """Let tasks and threads go on until `caller` has ended."""
        self.until(lambda: caller.ended, lambda: f"{caller} does not end")

    def disperse(self) -> None:
        """End everybody, whatever they wait for."""
        give_up_at = time.monotonic() + PATIENCE
        while not all(caller.ended for caller in self.callers):
            for caller in self.callers:
                if isinstance(caller, TaskCaller):
                    caller.cancel()
                elif caller.begun and not caller.ended:
                    caller.end(None)
            self._clock.advance(100.0)
            self._loop.run_until_complete(asyncio.sleep(0))
            time.sleep(0.0005)
            assert time.monotonic() < give_up_at, "a caller does not end"
        self._loop.close()
