"""Leases that are not given back in good order: who comes after waits little."""

from contextlib import suppress

import pytest

from datakit.cache import Cache
from datakit.errors import DeadlineExceededError
from datakit.resilience import deadline
from datakit.testing import FakeClock

ENDINGS = pytest.mark.parametrize("error", [None, KeyError("lost")], ids=["returns", "raises"])


@ENDINGS
def test_a_load_that_outlives_its_deadline_gives_its_lease_back(
    cache: Cache, clock: FakeClock, error: Exception | None
) -> None:
    """Its value is stored, if there is one; the next caller waits for nothing."""
    calls: list[int] = []

    @cache.cached(ttl=60)
    def square(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            clock.advance(2)
            if error is not None:
                raise error
        return n * n

    with deadline(1, clock=clock), suppress(KeyError):
        square(7)
    began = clock.monotonic()
    assert square(7) == 49
    assert clock.monotonic() == began
    assert len(calls) == (1 if error is None else 2)
    cache.close()


@ENDINGS
async def test_a_load_of_tasks_that_outlives_its_deadline_gives_its_lease_back(
    cache: Cache, clock: FakeClock, error: Exception | None
) -> None:
    """The same for tasks."""
    calls: list[int] = []

    @cache.cached(ttl=60)
    async def square(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            clock.advance(2)
            if error is not None:
                raise error
        return n * n

    with deadline(1, clock=clock), suppress(KeyError, DeadlineExceededError):
        await square(7)
    began = clock.monotonic()
    assert await square(7) == 49
    assert clock.monotonic() == began
    assert len(calls) == (1 if error is None else 2)
    await cache.aio.close()
