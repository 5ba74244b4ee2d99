"""Events reach subscribers, and only them."""

import logging

import pytest

from datakit import events
from datakit.events import NameResolved, StaleServed


def test_subscribers_get_the_record_until_they_unsubscribe() -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    events.emit(StaleServed, "db.internal", "A")
    unsubscribe()
    events.emit(StaleServed, "db.internal", "AAAA")
    assert seen == [StaleServed("db.internal", "A")]


def test_without_a_subscriber_no_record_is_made() -> None:
    def explode() -> events.Event:
        raise AssertionError

    events.emit(explode)


def test_a_failing_subscriber_is_reported_once_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[events.Event] = []

    def broken(event: events.Event) -> None:
        raise RuntimeError("subscriber bug")

    ends = [events.subscribe(broken), events.subscribe(seen.append)]
    with caplog.at_level(logging.ERROR, "datakit.events"):
        for _ in range(3):
            events.emit(NameResolved, "db.internal", "A", ("192.0.2.1",), 5.0)
    for end in ends:
        end()
    assert len(seen) == 3
    assert len(caplog.records) == 1


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        StaleServed("db.internal", "A").name = "x"  # type: ignore[misc]
