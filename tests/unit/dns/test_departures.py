"""Whether an address has left its name for good."""

from datakit.dns.departures import GRACE, Departures


def test_an_address_that_flaps_is_kept_and_one_that_left_is_not() -> None:
    departures = Departures()
    for now in range(0, 60, 4):  # old, new, old: never gone for as long as the grace
        assert not departures.has_left("192.0.2.1", now, is_current=now % 8 == 0)
    assert not departures.has_left("192.0.2.1", 100, is_current=False)
    assert departures.has_left("192.0.2.1", 100 + GRACE, is_current=False)
    departures.forget("192.0.2.1")  # a connection was just made to it
    assert not departures.has_left("192.0.2.1", 101 + GRACE, is_current=False)
