"""Which version of a rotating secret to try next. Pure.

Source: Secrets Manager User Guide, "Rotation by Lambda function": the new password is stored as
AWSPENDING, then set in the database, and becomes AWSCURRENT last. In between the database takes
the pending one alone.
"""

from typing import Final

CURRENT: Final = "AWSCURRENT"
PENDING: Final = "AWSPENDING"

WAITS: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt: both versions at once, then across the rotation."""


def stage_for(failures: int) -> str:
    """Return the version to fetch after so many refusals in a row: current and pending in turn."""
    return PENDING if failures and failures % 2 == 0 else CURRENT


def wait_after(failures: int) -> float | None:
    """Return the seconds until the next attempt, None when there is none."""
    return WAITS[failures - 1] if failures <= len(WAITS) else None
