"""What a server says of when to come again. Pure."""

import math


def retry_after(failure: BaseException, wall: float) -> float | None:
    """Return the seconds that the server asked to wait, None when it did not ask.

    Looks for a number of seconds in `failure.retry_after`, then for a Retry-After header in
    `failure.headers` or `failure.response.headers`, as the errors of urllib, httpx and requests
    have them. wall: seconds since the epoch, now.

    Source: RFC 9110 section 10.2.3.
    """
    try:
        own = _seconds(getattr(failure, "retry_after", None))
        return _from_headers(failure, wall) if own is None else own
    except Exception:  # noqa: BLE001 - a foreign object's property must not hide the failure
        return None


def _from_headers(failure: BaseException, wall: float) -> float | None:
    for holder in (failure, getattr(failure, "response", None)):
        get = getattr(getattr(holder, "headers", None), "get", None)
        text = get and (get("Retry-After") or get("retry-after"))
        if isinstance(text, str):
            return _seconds(text) if text.strip().isdecimal() else _until(text, wall)
    return None


def _seconds(value: object) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(date: str, wall: float) -> float | None:
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(date)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - wall)
    except (ValueError, OverflowError):
        return None
