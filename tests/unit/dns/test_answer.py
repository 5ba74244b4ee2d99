"""TTL arithmetic and staleness, under every clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.dns.answer import SUSPECT_HOLD, Answer, Entry, Freshness, TtlRules, decide
from datakit.testing import FakeClock

ttls = st.floats(0, 2**31)
times = st.floats(0, 1e5)


def entry(ttl: float, *, fetched_at: float = 0.0, max_stale: float = 3600.0) -> Entry:
    answer = Answer("db", "A", ("192.0.2.1",), (), "cache", "", fetched_at + ttl)
    return Entry(
        answer, fetched_at, fetched_at + ttl, fetched_at + ttl, fetched_at + ttl + max_stale
    )


@given(ttl=ttls, low=st.floats(0, 1000), high=st.floats(0, 1000))
def test_a_positive_ttl_never_exceeds_the_cap(ttl: float, low: float, high: float) -> None:
    held = TtlRules(min_ttl=low, max_ttl=high).positive(ttl)
    assert 0 <= held <= high
    assert held == min(max(ttl, low), high)


@given(ttl=ttls)
def test_an_absence_is_believed_for_seconds_at_most(ttl: float) -> None:
    assert TtlRules().negative(ttl) <= 5.0


@given(ttl=st.floats(0.001, 1e4), mono=times, wall=times)
def test_no_answer_outlives_either_clock(ttl: float, mono: float, wall: float) -> None:
    expected = mono < ttl and wall < ttl
    assert (decide(entry(ttl), mono, wall) is Freshness.FRESH) == expected


@given(ttl=st.floats(0, 1e4), past=st.floats(0, 1e5))
def test_stale_ends_after_max_stale(ttl: float, past: float) -> None:
    now = ttl + past
    freshness = decide(entry(ttl, max_stale=3600), now, now)
    assert freshness is (Freshness.STALE if now < ttl + 3600 else Freshness.GONE)


def test_a_suspect_answer_is_asked_again_but_not_at_once() -> None:
    suspect = entry(60.0)
    suspect.suspected_at = 0.0
    assert decide(suspect, SUSPECT_HOLD / 2, 0) is Freshness.FRESH
    assert decide(suspect, SUSPECT_HOLD, 0) is Freshness.STALE


def test_the_ttl_counts_down_to_zero() -> None:
    clock = FakeClock(monotonic=100.0)
    answer = Answer("db", "A", (), (), "cache", "", 105.0, clock)
    assert answer.ttl == pytest.approx(5.0)
    clock.advance(3)
    assert answer.ttl == pytest.approx(2.0)
    clock.advance(3)
    assert answer.ttl == 0.0
