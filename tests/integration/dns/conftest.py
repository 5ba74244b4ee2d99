"""One set of real name servers for the run."""

from collections.abc import Iterator

import pytest
from tests.integration.dns.nameservers import Nameservers


@pytest.fixture(scope="session")
def nameservers() -> Iterator[Nameservers]:
    """Knot for the root and a top level, BIND below, unbound beside; tests leave them alive."""
    with Nameservers() as servers:
        yield servers
