"""What the operating system found is the last known address when datakit's servers are silent."""

from collections.abc import Callable
from typing import Any

import pytest

from datakit.dns import Address, AsyncResolver, Resolver
from datakit.dns.system import AsyncSystemFirst, SystemFirst
from datakit.testing import DnsServer, FakeClock

NAME = "db.shop.internal"
FOUND = (Address("127.0.0.9", 5432),)


class First(SystemFirst):
    """Whose system knows the name."""

    def __init__(self, server: str, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self._new_resolver = lambda: Resolver([server])  # type: ignore[method-assign]

    def _from_system(self, name: str, port: int) -> tuple[Address, ...]:
        self._note_asked()
        return self._note_found(name, FOUND)


class AsyncFirst(AsyncSystemFirst):
    def __init__(self, server: str, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self._new_resolver = lambda: AsyncResolver([server])  # type: ignore[method-assign]

    async def _from_system(self, name: str, port: int) -> tuple[Address, ...]:
        self._note_asked()
        return self._note_found(name, FOUND)


async def asked(value: Any) -> Any:
    """Return `value`, or what it comes to."""
    return await value if hasattr(value, "__await__") else value


@pytest.mark.parametrize("make", [First, AsyncFirst])
async def test_the_systems_answer_serves_while_no_server_answers(
    make: Callable[..., Any], dns_server: DnsServer
) -> None:
    clock = FakeClock()
    first = make(dns_server.endpoint, clock)
    assert await asked(first.addresses(NAME, 5432)) == FOUND
    dns_server.close()
    clock.advance(5.1)
    assert await asked(first.is_current(NAME, "127.0.0.9"))
    assert not await asked(first.is_current(NAME, "127.0.0.10"))
    assert await asked(first.addresses(NAME, 5432)) == FOUND
    first.report_failure(NAME, "127.0.0.9")
    assert await asked(first.addresses(NAME, 5432)) == FOUND


@pytest.mark.parametrize("make", [First, AsyncFirst])
async def test_a_server_that_answers_replaces_the_systems_answer(
    make: Callable[..., Any], dns_server: DnsServer
) -> None:
    dns_server.set(NAME, "A", ["127.0.0.10"])
    clock = FakeClock()
    first = make(dns_server.endpoint, clock)
    assert await asked(first.addresses(NAME, 5432)) == FOUND
    clock.advance(5.1)
    assert not await asked(first.is_current(NAME, "127.0.0.9"))
    assert await asked(first.addresses(NAME, 5432)) == (Address("127.0.0.10", 5432),)
