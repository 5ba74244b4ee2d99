"""Retries without waiting, for the suite of an application."""

from collections.abc import Iterator
from contextlib import contextmanager

from datakit.resilience import checks
from datakit.resilience.pace import Pace, paces


@contextmanager
def no_sleep(*, attempts: int | None = None) -> Iterator[None]:
    """Let every retry of the process follow at once, as if the backoff had passed.

    Deadlines of policies end as if it had, so that what is tried until a deadline is tried as
    often as in earnest. `deadline` blocks go by real time. Loops that began before are left
    alone. May be nested; the latest counts.

    attempts: at most so many for each operation, whatever its policy says.

    Raises:
        ConfigError: `attempts` is below 1.
    """
    if attempts is not None:
        checks.count("no_sleep", "attempts", attempts)
    pace = Pace(attempts)
    paces.append(pace)
    try:
        yield
    finally:
        paces.remove(pace)
