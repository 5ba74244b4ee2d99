"""Whether a server that says nothing inside a statement lives.

A stopped process and a black hole look like a long statement: the kernel goes on acknowledging, and
no keepalive sees it. So after some silence a second TCP connection asks the same server for the
first byte that any of its kind sends. No thread: whoever waits asks.
"""

from collections.abc import Iterator
from math import inf
from time import monotonic
from typing import Final

from datakit._bounded import BoundedDict
from datakit.db.drivers.limits import bounded
from datakit.dns import Address
from datakit.dns.connecting import race
from datakit.errors import DeadlineExceededError
from datakit.resilience import deadline

ANSWER_WITHIN: Final = 2.0
"""Seconds that a server has to show that it lives."""

SILENT: Final = "datakit_server_is_silent"
"""Set on the driver's error for a server that does not live."""

_alive_at: BoundedDict[Address, float] = BoundedDict(1_000)
"""When a server last showed that it lives: many long statements need one answer. MySQL counts who
leaves without logging in, and blocks a host after a hundred in a row (`max_connect_errors`)."""


class Watch:
    """Asks the server of one connection.

    greeting: what it answers; see `Driver.GREETING`. after: seconds of silence before it is asked,
        doubled each time that it lives; None never to ask.
    """

    __slots__ = ("_address", "_greeting", "after", "first")

    def __init__(self, ip: str, port: int, greeting: bytes, after: float | None) -> None:
        self._address = Address(ip, port)
        self._greeting = greeting
        self.after = inf if after is None else after
        self.first = after
        """Seconds to wait at first where no time is set; None for as long as it takes."""

    def steps(self, timeout: float | None) -> Iterator[tuple[float | None, bool]]:
        """Yield the seconds to wait one after the other, and whether the time is over then.

        timeout: seconds for all; the `deadline` holds as well.
        """
        until = None if timeout is None else monotonic() + timeout
        silence = self.after
        while True:
            left = bounded(None if until is None else max(0.0, until - monotonic()))
            if left is not None and left <= silence:
                yield left, True
            else:
                yield None if silence == inf else silence, False
                silence *= 2

    def is_alive(self, silence: float | None) -> bool:
        """Return whether the server answers, or did in the last `silence` seconds."""
        if self._was_alive(silence):
            return True
        try:
            with deadline(ANSWER_WITHIN):
                race([self._address], self._address.ip, _nothing, greeting=self._greeting).close()
        except (OSError, DeadlineExceededError):
            return False
        _alive_at[self._address] = monotonic()
        return True

    async def is_alive_async(self, silence: float | None) -> bool:
        """Return whether the server answers, or did in the last `silence` seconds."""
        from datakit.dns.connecting_async import race as race_async

        if self._was_alive(silence):
            return True
        ask = race_async([self._address], self._address.ip, _nothing, greeting=self._greeting)
        try:
            with deadline(ANSWER_WITHIN):
                (await ask).close()
        except (OSError, DeadlineExceededError):
            return False
        _alive_at[self._address] = monotonic()
        return True

    def _was_alive(self, silence: float | None) -> bool:
        at = _alive_at.get(self._address)
        return at is not None and silence is not None and monotonic() - at < silence

    def __str__(self) -> str:
        return f"{self._address.ip} port {self._address.port}"


NO_WATCH: Final = Watch("", 0, b"", None)


def silent(error: Exception) -> Exception:
    """Return `error`, marked as that of a server which does not live."""
    setattr(error, SILENT, True)
    return error


def _nothing(address: Address) -> None:
    pass
