"""The operating system's answer holds for a while; then datakit's resolver is asked."""

from threading import enumerate as enumerate_threads

from datakit.dns import Address
from datakit.dns.system import AsyncSystemFirst, SystemFirst
from datakit.resilience import forks
from datakit.testing import FakeClock

ELSEWHERE = "192.0.2.1"
"""No address of localhost, as datakit's resolver knows by itself and the system is not asked."""


def asked(clock: FakeClock) -> SystemFirst:
    first = SystemFirst(clock=clock)
    assert Address("127.0.0.1", 5432) in first.addresses("localhost", 5432)
    return first


def test_an_address_is_taken_for_current_while_the_systems_answer_is_young() -> None:
    clock = FakeClock()
    first = asked(clock)
    clock.advance(4.9)
    assert first.is_current("localhost", ELSEWHERE)
    clock.advance(0.2)
    assert not first.is_current("localhost", ELSEWHERE)
    assert first.is_current("localhost", "127.0.0.1")


def test_the_time_that_a_process_was_frozen_counts() -> None:
    clock = FakeClock()
    first = asked(clock)
    clock.advance_wall(6)
    assert not first.is_current("localhost", ELSEWHERE)


def test_a_failed_address_hands_over_at_once() -> None:
    first = asked(FakeClock())
    first.report_failure("localhost", "127.0.0.1")
    assert not first.is_current("localhost", ELSEWHERE)
    assert first.addresses("localhost", 5432)[-1] == Address("127.0.0.1", 5432)  # tried last


def test_a_copy_of_the_process_begins_with_the_system_again() -> None:
    first = asked(FakeClock())
    first.report_failure("localhost", "127.0.0.1")
    forks.renew()
    assert first.is_current("localhost", ELSEWHERE)


def test_each_address_is_named_once() -> None:
    addresses = SystemFirst().addresses("127.0.0.1", 80)
    assert addresses == (Address("127.0.0.1", 80),)


async def test_the_asyncio_form_does_the_same_and_leaves_no_thread() -> None:
    before = set(enumerate_threads())
    clock = FakeClock()
    first = AsyncSystemFirst(clock=clock)
    assert Address("127.0.0.1", 5432) in await first.addresses("localhost", 5432)
    assert await first.is_current("localhost", ELSEWHERE)
    for thread in set(enumerate_threads()) - before:
        thread.join(5.0)
    assert set(enumerate_threads()) <= before
    clock.advance(5.1)
    assert not await first.is_current("localhost", ELSEWHERE)
    assert Address("127.0.0.1", 5432) in await first.addresses("localhost", 5432)
