"""One run: lanes pay, something happens at a random moment, and the books are read."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from time import monotonic, sleep

import sqlalchemy
from sqlalchemy import NullPool
from tests.chaos.bank import Books, open_bank, read_books
from tests.chaos.lanes import Lane
from tests.chaos.outcome import Outcome, Times, judge
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.stage import Cluster, Node, Stage
from tests.chaos.ways import Way

from datakit.testing import DnsServer, MariadbCluster, PostgresCluster
from datakit.testing._wait import until

PATIENCE = 25.0
"""Seconds that lanes which have to come back have for it."""

PATIENCE_WITH_CONTROLS = 3.0
"""Seconds that the others have."""

AFTERMATH = 0.4
"""Seconds for which lanes that are back go on."""

LanesOf = Callable[[Way], list[Lane]]


@dataclass(frozen=True)
class Run:
    """What became of all lanes. outage: seconds without a server that takes writes."""

    site: str
    scenario: str
    seed: int
    outage: float
    outcomes: list[Outcome]


@contextmanager
def site(name: str) -> Iterator[Cluster]:
    """Give servers of one kind: pg15, pg18 or mariadb, with " async" for their replication."""
    synchronous = not name.endswith(" async")
    cluster: Cluster
    if name.startswith("mariadb"):
        cluster = MariadbCluster(synchronous=synchronous)
    else:
        binaries = "wheel" if name.startswith("pg18") else "system"
        cluster = PostgresCluster(synchronous=synchronous, binaries=binaries)
    with cluster:
        yield cluster


def rehearse(name: str, cluster: Cluster, scenario: str, seed: int, lanes_of: LanesOf) -> Run:
    """Play `scenario` once on the healthy servers `name`, which are healthy again afterwards."""
    how = SCENARIOS[scenario]
    with ExitStack() as stack:
        dns = stack.enter_context(DnsServer())
        stage = Stage(cluster, dns, Random(seed), stack.enter_context(ExitStack()))
        with _engine(cluster.primary) as engine:
            open_bank(engine, {})
        lanes = lanes_of(how.way(stage))
        with _engine(cluster.primary) as engine:
            open_bank(engine, {lane.name: lane.writers for lane in lanes})
        for lane in lanes:
            stack.callback(lane.close)
            lane.start()
        until(lambda: all(map(_warm, lanes)), f"the first payments of {lanes}")
        sleep(stage.rng.uniform(0.1, 0.6))
        how.play(stage)
        own = [lane for lane in lanes if lane.claims]
        others = [lane for lane in lanes if not lane.claims]
        _wait_until_back(own, stage.accepts_at, PATIENCE)
        _wait_until_back(others, stage.accepts_at, PATIENCE_WITH_CONTROLS)
        _end(stage, lanes)
        outcomes = _outcomes(stage, lanes)
    if stage.failed_over:
        _rejoin(cluster, stage.old)
    return Run(name, scenario, seed, round(stage.accepts_at - stage.fault_at, 3), outcomes)


def _warm(lane: Lane) -> bool:
    return len(lane.back(0.0)) == lane.writers


def _is_back(lane: Lane, accepts_at: float) -> bool:
    return len(lane.back(accepts_at)) == lane.writers


def _wait_until_back(lanes: list[Lane], accepts_at: float, patience: float) -> None:
    """Return when all writers have paid since, or have had the time for it; let them stop then."""
    while not all(_is_back(lane, accepts_at) for lane in lanes):
        if monotonic() - accepts_at > patience:
            break
        sleep(0.02)
    sleep(AFTERMATH)
    for lane in lanes:
        lane.stop()


def _end(stage: Stage, lanes: list[Lane]) -> None:
    """Let all writers finish: the controls may need that the old primary ends."""
    for lane in lanes:
        if lane.claims:
            lane.join(PATIENCE)
    stage.end()
    for lane in lanes:
        lane.join(PATIENCE)


def _outcomes(stage: Stage, lanes: list[Lane]) -> list[Outcome]:
    with _engine(stage.cluster.primary) as engine:
        books = {lane.name: read_books(engine, lane.name) for lane in lanes}
    missing = {
        lane.name
        for lane in lanes
        if any(commit.payment not in books[lane.name].payments for commit in lane.commits)
    }
    old = _books_of_the_old(stage, missing) if stage.failed_over and missing else {}
    times = Times(stage.fault_at, stage.accepts_at, stage.ended_at)
    return [
        judge(lane, books[lane.name], _only_in(old.get(lane.name), books[lane.name]), times)
        for lane in lanes
    ]


def _books_of_the_old(stage: Stage, lanes: Collection[str]) -> dict[str, Books]:
    """Return what the old primary had on its disk when it was left."""
    stage.old.restart()
    with _engine(stage.old) as engine:
        return {lane: read_books(engine, lane) for lane in lanes}


def _only_in(old: Books | None, new: Books) -> set[int]:
    return set(old.payments) - set(new.payments) if old else set()


def _rejoin(cluster: Cluster, node: Node) -> None:
    cluster.rejoin(node)  # type: ignore[arg-type]  # it is one of this cluster's own


@contextmanager
def _engine(node: Node) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(node.url(), poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()
