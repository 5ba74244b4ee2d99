"""When a server says that it may be asked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.resilience.retry_after import retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


class Response:
    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def failure(**attributes: object) -> Exception:
    error = Exception()
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (failure(), None),
        (failure(retry_after=2), 2.0),
        (failure(retry_after=0.5), 0.5),
        (failure(retry_after="3"), 3.0),
        (failure(retry_after=None), None),
        (failure(retry_after=-1), None),
        (failure(retry_after=float("nan")), None),
        (failure(retry_after=float("inf")), None),
        (failure(retry_after=True), None),
        (failure(retry_after=lambda: 3), None),
        (failure(headers={"Retry-After": "120"}), 120.0),
        (failure(response=Response(Retry_After="7")), 7.0),
        (failure(response=Response(retry_after="7")), 7.0),
        (failure(response=Response(Retry_After="Tue, 14 Nov 2023 22:14:20 GMT")), 60.0),
        (failure(response=Response(Retry_After="Tue, 14 Nov 2023 22:00:00 GMT")), 0.0),
        (failure(response=Response(Retry_After="soon")), None),
        (failure(response=None), None),
        (failure(response={"Error": {}}), None),
        (failure(headers=object()), None),
    ],
)
def test_seconds_are_found_where_errors_have_them(error: Exception, seconds: float | None) -> None:
    assert retry_after(error, NOW) == seconds


@given(st.text() | st.floats() | st.integers() | st.none() | st.binary())
def test_nonsense_is_no_time(value: object) -> None:
    for error in (failure(retry_after=value), failure(headers={"Retry-After": value})):
        seconds = retry_after(error, NOW)
        assert seconds is None or 0 <= seconds < float("inf")
