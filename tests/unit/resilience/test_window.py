"""The sliding window beside a list of all calls."""

from hypothesis import given
from hypothesis import strategies as st

from datakit.resilience.window import BUCKETS, Window

steps = st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60)


@given(start=st.floats(0, 1e6), seconds=st.floats(0.5, 60), steps=steps)
def test_it_counts_what_a_list_of_all_calls_counts(
    start: float, seconds: float, steps: list[tuple[float, bool]]
) -> None:
    window, now, width = Window(seconds), start, seconds / BUCKETS
    calls: list[tuple[int, bool]] = []
    for passed, failed in steps:
        now += passed
        (window.failure if failed else window.success)(now)
        latest = int(now / width)
        calls.append((latest, failed))
        recent = [failed for bucket, failed in calls if bucket > latest - BUCKETS]
        assert (window.calls, window.failures) == (len(recent), sum(recent))


@given(start=st.floats(0, 1e6), seconds=st.floats(0.5, 60), passed=st.floats(0, 100))
def test_a_call_is_kept_nine_tenths_of_the_window_and_no_longer_than_it(
    start: float, seconds: float, passed: float
) -> None:
    window = Window(seconds)
    window.failure(start)
    window.success(start + passed)
    if passed < seconds * 0.899:
        assert window.failures == 1
    if passed > seconds * 1.001:
        assert window.failures == 0


def test_a_reading_from_before_the_current_bucket_is_counted_in_it() -> None:
    window = Window(10.0)
    window.success(100.0)
    window.failure(98.0)
    assert (window.calls, window.failures) == (2, 1)
