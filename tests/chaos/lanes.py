"""Lanes: writers of one kind that pay as long as they are let, and what they saw meanwhile."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import inf
from threading import Event, Thread
from time import monotonic
from typing import NamedTuple

from tests.chaos.bank import Payment, payments

WRITERS = 8
PACE = 0.15
"""Seconds between two payments of one writer, on average."""


class Commit(NamedTuple):
    """A payment that was acknowledged. began, at: `time.monotonic()`."""

    writer: int
    payment: int
    began: float
    at: float

    def waited(self, since: float) -> float:
        """Return the seconds that the caller waited after `since`."""
        return self.at - max(self.began, since)


class Failure(NamedTuple):
    """A payment that ended with an error."""

    writer: int
    payment: int
    at: float
    error: Exception


class Lane(ABC):
    """Writers of one kind.

    claims: the lane is datakit's, and has to lose and repeat nothing. asks: its writers are told
    of a COMMIT of which nobody knows, which is no failure then.
    """

    claims = False
    asks = False

    def __init__(self, name: str, *, writers: int = WRITERS, pace: float = PACE) -> None:
        self.name = name
        self.writers = writers
        self.commits: list[Commit] = []
        self.failures: list[Failure] = []
        self._pace = pace
        self._stop = Event()
        self._threads: list[Thread] = []

    def __repr__(self) -> str:
        return f"Lane({self.name})"

    def start(self) -> None:
        """Let the writers pay."""
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def close(self) -> None:
        """Let go of what all have together."""

    def stop(self) -> None:
        """Let the writers finish what they are at, and no more."""
        self._stop.set()

    @property
    def hangs(self) -> bool:
        """Whether a thread is at work."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, seconds: float) -> None:
        """Wait so long for the writers to finish."""
        until = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def back(self, since: float, until: float = inf) -> dict[int, Commit]:
        """Return the first payment in that time of each writer that has paid in it."""
        first: dict[int, Commit] = {}
        for commit in list(self.commits):
            if since <= commit.at <= until:
                first.setdefault(commit.writer, commit)
        return first

    def _work(self, writer: int) -> Iterator[Payment]:
        """Yield payments until the lane is stopped."""
        for payment in payments(writer, self.writers, random.Random(writer)):
            if self._stop.is_set():
                return
            yield payment

    def _pause(self) -> float:
        return random.uniform(0.0, 2 * self._pace)

    def _note(self, writer: int, payment: Payment, began: float, error: Exception | None) -> None:
        if error is None:
            self.commits.append(Commit(writer, payment.id, began, monotonic()))
        elif self.claims or not self._stop.is_set():  # a control may be cut off at the end
            self.failures.append(Failure(writer, payment.id, monotonic(), error))


class ThreadLane(Lane):
    """A thread for each writer."""

    def __init__(self, name: str, *, writers: int = WRITERS, pace: float = PACE) -> None:
        super().__init__(name, writers=writers, pace=pace)
        self._threads = [
            Thread(target=self._write, args=(writer,), name=f"{name} {writer}", daemon=True)
            for writer in range(writers)
        ]

    def _write(self, writer: int) -> None:
        for payment in self._work(writer):
            self._stop.wait(self._pause())
            began, error = monotonic(), None
            try:
                self.pay(writer, payment)
            except Exception as exc:  # noqa: BLE001 - counted
                error = exc
            self._note(writer, payment, began, error)
        self.leave(writer)

    @abstractmethod
    def pay(self, writer: int, payment: Payment) -> None:
        """Do a payment and commit."""

    def leave(self, writer: int) -> None:
        """Let go of what a writer has for itself."""


class TaskLane(Lane):
    """A task for each writer, in an event loop of the lane's own."""

    def __init__(self, name: str, *, writers: int = WRITERS, pace: float = PACE) -> None:
        super().__init__(name, writers=writers, pace=pace)
        self._threads = [Thread(target=lambda: asyncio.run(self._run()), name=name, daemon=True)]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for writer in range(self.writers):
                group.create_task(self._write(writer))
        await self.aclose()

    async def _write(self, writer: int) -> None:
        for payment in self._work(writer):
            await asyncio.sleep(self._pause())
            began, error = monotonic(), None
            try:
                await self.pay(writer, payment)
            except Exception as exc:  # noqa: BLE001 - counted
                error = exc
            self._note(writer, payment, began, error)

    @abstractmethod
    async def pay(self, writer: int, payment: Payment) -> None:
        """Do a payment and commit."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what all have together."""
