"""At most n at once, threads and tasks together; no place is ever lost."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from datakit import Bulkhead, deadline
from datakit.errors import ConfigError, DeadlineExceededError, OverloadError


class Gauge:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


def test_threads_and_tasks_share_the_places() -> None:
    bulkhead, gauge = Bulkhead(3), Gauge()

    def work() -> None:
        with gauge:
            time.sleep(0.005)

    async def awork() -> None:
        with gauge:
            await asyncio.sleep(0.005)

    async def crowd() -> None:
        await asyncio.gather(*(bulkhead.acall(awork) for _ in range(30)))

    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(bulkhead.call, work) for _ in range(30)]
        calls += [pool.submit(asyncio.run, crowd()) for _ in range(2)]
        for call in calls:
            call.result()
    assert gauge.most == 3
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_a_call_that_waits_too_long_is_refused_and_loses_no_place() -> None:
    bulkhead, release = Bulkhead(1, max_wait=0.05), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bulkhead.call, release.wait)
        while not bulkhead.running:
            time.sleep(0.001)
        with pytest.raises(OverloadError, match="1 places are taken"):
            bulkhead.call(lambda: None)
        release.set()
        running.result()
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)
    assert bulkhead.call(lambda: 7) == 7


async def test_a_task_that_waits_too_long_is_refused() -> None:
    bulkhead, release = Bulkhead(1, max_wait=0.05, max_waiting=1), asyncio.Event()
    running = asyncio.create_task(bulkhead.acall(release.wait))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(bulkhead.acall(release.wait))
    await asyncio.sleep(0)
    with pytest.raises(OverloadError):
        await bulkhead.acall(release.wait)
    with pytest.raises(OverloadError):
        await waiting
    release.set()
    await running
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_cancellation_anywhere_leaves_no_place_taken() -> None:
    bulkhead = Bulkhead(2)

    async def work() -> None:
        await asyncio.sleep(0.002)

    for step in range(40):
        calls = [asyncio.create_task(bulkhead.acall(work)) for _ in range(6)]
        for _ in range(step % 10):
            await asyncio.sleep(0.0005)
        for call in calls[step % 2 :: 2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_a_place_granted_to_a_closed_loop_goes_to_the_next() -> None:
    bulkhead, release = Bulkhead(1), asyncio.Event()
    running = asyncio.create_task(bulkhead.acall(release.wait))
    await asyncio.sleep(0)

    def abandon_a_waiter() -> None:
        loop = asyncio.new_event_loop()
        waiter = bulkhead.acall(release.wait)
        loop.run_until_complete(asyncio.wait([loop.create_task(waiter)], timeout=0.02))
        pending = asyncio.all_tasks(loop)
        loop.close()
        abandoned.extend(pending)

    abandoned: list[asyncio.Task[object]] = []
    await asyncio.to_thread(abandon_a_waiter)
    release.set()
    await running
    assert bulkhead.running == 0
    for task in abandoned:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_forked_child_has_all_places() -> None:
    bulkhead, release = Bulkhead(1, max_wait=5), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bulkhead.call, release.wait)
        while not bulkhead.running:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            os._exit(bulkhead.call(lambda: 42))
        _, status = os.waitpid(child, 0)
        release.set()
        running.result()
    assert os.waitstatus_to_exitcode(status) == 42


def test_a_child_forked_inside_a_call_has_as_many_places_as_any() -> None:
    bulkhead = Bulkhead(1, max_wait=0)

    def in_child() -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return -1

    status = bulkhead.call(in_child)
    if status == -1:  # the child, out of the call that its parent entered
        inside = (bulkhead.running, bulkhead.call(lambda: bulkhead.running))
        os._exit(0 if inside == (0, 1) else 1)
    assert status == 0


def test_a_deadline_that_is_over_begins_nothing() -> None:
    with deadline(0), pytest.raises(DeadlineExceededError):
        Bulkhead(1).call(lambda: None)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"limit": 0}, "limit"), ({"limit": 1, "max_wait": -1}, "max_wait"),
     ({"limit": 1, "max_waiting": -1}, "max_waiting")],
)  # fmt: skip
def test_a_figure_out_of_range_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Bulkhead(**options)  # type: ignore[arg-type]
