"""One set of real name servers for the run, and a clock that need not be waited for."""

import time
from collections.abc import Iterator

import pytest
from tests.integration.dns.nameservers import Nameservers

from datakit.testing import FakeClock


class ShiftedClock(FakeClock):
    """Real time, plus what the test adds: a query's timeout passes by itself."""

    def monotonic(self) -> float:
        return super().monotonic() + time.monotonic()


@pytest.fixture(scope="session")
def nameservers() -> Iterator[Nameservers]:
    """Knot for the root and a top level, BIND below, unbound beside; tests leave them alive."""
    with Nameservers() as servers:
        yield servers
