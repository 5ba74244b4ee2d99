"""Wait for something that tells nobody when it happens."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str, *, timeout: float = 30.0) -> None:
    """Return when `condition()` holds; ask every 5 ms.

    what: the thing waited for, for the error.

    Raises:
        TimeoutError: it did not come true within `timeout` seconds.
    """
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)
