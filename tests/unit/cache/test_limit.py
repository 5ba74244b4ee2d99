"""A task's time limit."""

import asyncio
import time

import pytest

from datakit.cache.backends.limit import Limit


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_block_ends_when_the_time_is_over() -> None:
    limit = Limit(after(0.01))
    with pytest.raises(TimeoutError), limit:
        await asyncio.sleep(10)
    assert limit.is_over


async def test_what_came_in_time_is_taken_however_late() -> None:
    came = asyncio.get_running_loop().create_future()
    limit = Limit(after(0.01))
    with limit:
        asyncio.get_running_loop().call_later(0.005, came.set_result, 7)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is busy
        assert await came == 7
    assert not limit.is_over


async def test_it_may_be_put_off_and_lifted() -> None:
    with Limit(after(0.01)) as limit:
        limit.reschedule(after(10))
        await asyncio.sleep(0.03)
        limit.reschedule(after(0.01))
        limit.reschedule(None)
        await asyncio.sleep(0.03)


async def test_a_cancel_is_no_timeout() -> None:
    async def wait() -> None:
        with Limit(after(10)):
            await asyncio.sleep(10)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_of_another_at_the_same_time_is_no_timeout_either() -> None:
    """As with asyncio's own."""

    async def wait() -> None:
        with Limit(after(0.01)):
            await asyncio.sleep(10)

    task = asyncio.create_task(wait())
    while not task.cancelling():  # noqa: ASYNC110 - the round in which it ends
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
