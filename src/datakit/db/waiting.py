"""How an engine waits: blocking its thread, or through SQLAlchemy's greenlet."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn

from datakit._clock import SYSTEM_CLOCK
from datakit.auth import Login, PasswordAuth
from datakit.dns import Address
from datakit.dns.connecting import HEAD_START, Failed, race
from datakit.dns.connecting_async import race as race_async
from datakit.resilience import Gate

if TYPE_CHECKING:
    from datakit.dns import AsyncResolver, Resolver
    from datakit.dns.system import AsyncSystemFirst, SystemFirst

T = TypeVar("T")

HEAD_START_OF_MEMBERS: Final = 0.05
"""Seconds before another member of a cluster is asked beside the last: one is not better than
another, as an address family may be."""


def head_start(greeting: bytes | None) -> float:
    """Return the seconds between two candidates."""
    return HEAD_START if greeting is None else HEAD_START_OF_MEMBERS


class Blocking:
    """For an Engine."""

    def __init__(self, resolver: "Resolver | SystemFirst") -> None:
        self.addresses = resolver.addresses
        self.is_current = resolver.is_current
        self.report_failure = resolver.report_failure

    def first_to_answer(
        self, name: str, candidates: Sequence[Address], failed: Failed, greeting: bytes | None
    ) -> Address:
        """Return the first that accepts a connection, or answers `greeting`."""
        with race(
            candidates, name, failed, greeting=greeting, head_start=head_start(greeting)
        ) as sock:
            return Address(*sock.getpeername()[:2])

    def login(self, auth: PasswordAuth, login: Login) -> Login:
        """Return `login` with its password."""
        return auth.login(login)

    def through(self, gate: Gate, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, begun when the gate lets it."""
        return gate.call(attempt)


class Awaiting:
    """For an AsyncEngine."""

    def __init__(self, resolver: "AsyncResolver | AsyncSystemFirst") -> None:
        self._resolver = resolver
        self.report_failure = resolver.report_failure

    def addresses(self, name: str, port: int) -> tuple[Address, ...]:
        """Return where `name` can be connected to."""
        return await_only(self._resolver.addresses(name, port))

    def is_current(self, name: str, ip: str) -> bool:
        """Return whether `ip` is an address of `name` now."""
        return await_only(self._resolver.is_current(name, ip))

    def first_to_answer(
        self, name: str, candidates: Sequence[Address], failed: Failed, greeting: bytes | None
    ) -> Address:
        """Return the first that accepts a connection, or answers `greeting`."""
        winner = race_async(
            candidates, name, failed, greeting=greeting, head_start=head_start(greeting)
        )
        with await_only(winner) as sock:
            return Address(*sock.getpeername()[:2])

    def login(self, auth: PasswordAuth, login: Login) -> Login:
        """Return `login` with its password."""
        return await_only(auth.alogin(login))

    def through(self, gate: Gate, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, begun when the gate lets it."""
        return await_only(gate.acall(greenlet_spawn, attempt))


class AwaitedClock:
    """The system's clock, whose `sleep` suspends the task behind SQLAlchemy's greenlet."""

    monotonic = staticmethod(SYSTEM_CLOCK.monotonic)
    wall = staticmethod(SYSTEM_CLOCK.wall)
    asleep = staticmethod(SYSTEM_CLOCK.asleep)

    def sleep(self, seconds: float, /) -> None:
        """Suspend the task."""
        await_only(SYSTEM_CLOCK.asleep(seconds))
