"""The one address that all connections of a cache lead to."""

from datakit.cache.backends.route import LOST_AFTER, Home
from datakit.cache.backends.share import TELLING
from datakit.dns import Address
from datakit.dns.departures import GRACE

A, B = Address("192.0.2.1", 6379), Address("192.0.2.2", 6379)


def home_at(address: Address) -> Home:
    home = Home("cache.internal")
    home.settle(address.ip)
    return home


def tried(home: Home, found: list[Address], now: float) -> list[Address]:
    return home.ordered(found, 6379, now)


def test_it_is_tried_first_also_while_the_name_may_flap() -> None:
    assert tried(Home("cache.internal"), [B, A], 0.0) == [B, A]
    home = home_at(A)
    assert tried(home, [B, A], 0.0) == [A, B]
    assert tried(home, [B], 1.0) == [A, B]
    assert tried(home, [B], 1.0 + GRACE) == [B]


def test_one_that_failed_is_tried_last_until_it_answers() -> None:
    home = home_at(A)
    home.losses = 1
    assert tried(home, [A, B], 0.0) == [B, A]
    assert tried(home, [B], 0.0) == [B]
    assert tried(home, [A], 0.0) == [A]
    home.settle(A.ip)  # a stopped process is connected to all the same
    assert tried(home, [A, B], 0.0) == [B, A]
    home.answered()
    assert tried(home, [A, B], 0.0) == [A, B]


def test_a_single_loss_says_nothing_to_those_who_wait_for_a_connection() -> None:
    home = home_at(A)
    for _ in range(LOST_AFTER):
        assert not home.is_lost
        home.losses += 1
    assert home.is_lost
    home.answered()
    assert not home.is_lost


def test_each_move_has_a_grace_of_its_own() -> None:
    home = home_at(A)
    for at, there, gone in ((0.0, A, B), (1_000.0, B, A), (2_000.0, A, B)):
        assert home.look(there.ip, at, is_current=False)
        assert not home.look(there.ip, at + GRACE, is_current=False)
        assert home.ip is None
        home.settle(gone.ip)


def test_short_silences_tell_nothing_until_they_add_up() -> None:
    home = home_at(A)
    assert not home.is_silent(TELLING / 2, 1.0, 10.0)
    assert not home.is_silent(TELLING / 2, 1.0, 10.0 + TELLING / 4)  # towards another caller
    assert home.is_silent(TELLING / 2, 1.0, 20.0)
    home.answered()
    assert not home.is_silent(TELLING / 2, 1.0, 30.0)
    assert home.is_silent(0.01, 0.01, 40.0)  # all that it usually has


def test_one_that_says_it_is_wrong_is_left_once_a_second() -> None:
    home = home_at(A)
    assert home.leave_once(A.ip, 10.0)
    assert home.ip is None
    home.settle(A.ip)
    assert not home.leave_once(A.ip, 10.5)
    assert home.ip == A.ip
    assert home.leave_once(A.ip, 11.0)
