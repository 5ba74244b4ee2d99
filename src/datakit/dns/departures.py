"""Whether an address has left its name for good. Pure."""

from typing import Final

from datakit._bounded import BoundedDict

GRACE: Final = 5.0
"""Seconds for which a connection is kept whose address is none of its name's any more: during a
failover a record flips between old and new. Source: RDS endpoints have a TTL of 5 s."""

MAX_DEPARTURES: Final = 1_000


class Departures:
    """The addresses that are none of the name's any more, and since when (monotonic seconds)."""

    def __init__(self) -> None:
        self._since: BoundedDict[str, float] = BoundedDict(MAX_DEPARTURES)

    def has_left(self, ip: str, now: float, *, is_current: bool) -> bool:
        """Return whether `ip` is to be left, by whether the name leads there now."""
        if is_current:
            self._since.pop(ip, None)
            return False
        since = self._since.get(ip)
        if since is None:
            since = self._since[ip] = now
        return now - since >= GRACE

    def forget(self, ip: str) -> None:
        """Take `ip` for one of the name's: a connection was just made to it."""
        self._since.pop(ip, None)
