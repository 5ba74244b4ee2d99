"""A few failovers, once each: no error seen, nothing lost, nothing twice. `make chaos` has all.

The controls, which go through the same failover, must show damage, so that a pass means something.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from random import randrange

import pytest
from tests.chaos.clients import IdempotentLane, control_lanes, datakit_lanes
from tests.chaos.lanes import Lane
from tests.chaos.report import breaches
from tests.chaos.run import rehearse, site
from tests.chaos.stage import Cluster
from tests.chaos.ways import Way


class Sites:
    """Servers by their kind; those of one kind stay as long as tests ask for them in a row."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name = ""

    def get(self, name: str) -> Cluster:
        if name != self._name:
            self.close()
            self._name, self._cluster = name, self._stack.enter_context(site(name))
        return self._cluster

    def close(self) -> None:
        self._name = ""
        self._stack.close()


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    sites = Sites()
    yield sites
    sites.close()


def all_lanes(way: Way) -> list[Lane]:
    more = [IdempotentLane(way)] if way.family == "postgresql" else []
    return [*datakit_lanes(way), *more, *control_lanes(way)]


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("pg15", "name flaps"),
        ("pg18", "kill, by name"),
        ("pg18", "stop"),
        ("pg18", "stop, fenced"),
        ("pg18", "demote"),
        ("pg18", "lost COMMIT"),
        ("pg18", "Aurora"),
        ("mariadb", "kill"),
        ("mariadb", "black hole"),
    ],
)
def test_failover_costs_no_payment_and_no_error(sites: Sites, name: str, scenario: str) -> None:
    run = rehearse(name, sites.get(name), scenario, randrange(1_000_000), all_lanes)
    assert breaches([run]) == []
    assert all(outcome.acknowledged >= 20 for outcome in run.outcomes if outcome.claims)


def test_what_an_asynchronous_standby_never_received_is_told_apart(sites: Sites) -> None:
    cluster = sites.get("pg18 async")
    seed = randrange(1_000_000)
    run = rehearse("pg18 async", cluster, "kill, standby behind", seed, all_lanes)
    assert breaches([run]) == []
    assert sum(outcome.lost_by_server for outcome in run.outcomes if outcome.claims) > 0
