"""Fail over again and again, and count: python -m tests.chaos (or: make chaos)."""

import argparse
import json
import logging
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.chaos.aws import AwsLane
from tests.chaos.clients import DatakitLane, DatakitTaskLane, control_lanes, datakit_lanes
from tests.chaos.lanes import Lane
from tests.chaos.report import breaches, plot, rows_of, table, totals
from tests.chaos.run import LanesOf, Run, rehearse, site
from tests.chaos.scenarios import ALL, ASYNCHRONOUS, RECOVERY, SCENARIOS
from tests.chaos.ways import Way

FAILURES_IN_A_ROW = 3


class Task(NamedTuple):
    """A run that is to be done."""

    site: str
    scenario: str
    seed: int
    lanes_of: LanesOf


def mixed(way: Way) -> list[Lane]:
    """Return datakit's lanes and the controls, which go through the same failover."""
    return [*datakit_lanes(way), *control_lanes(way)]


def mixed_on_aurora(way: Way) -> list[Lane]:
    """Return the same and the AWS wrapper."""
    return [*mixed(way), AwsLane(way, "failover")]


ALONE: tuple[LanesOf, ...] = (
    lambda way: [AwsLane(way, "failover")],
    lambda way: [AwsLane(way, "failover_v2")],
    lambda way: [DatakitLane(way, once=True)],
    lambda way: [DatakitTaskLane(way, once=True)],
    lambda way: [DatakitLane(way, once=True, crowd=True)],
    lambda way: [DatakitTaskLane(way, once=True, crowd=True)],
)
"""Each has the machine to itself, to be compared by its time."""


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Yield all runs, those on the same servers one after the other."""
    seeds = range(options.seed, options.seed + options.runs)
    for name in (*ALL, *ASYNCHRONOUS):
        for seed in seeds:
            for scenario, how in SCENARIOS.items():
                if name in how.sites:
                    lanes_of = mixed_on_aurora if scenario == "Aurora" else mixed
                    yield Task(name, scenario, seed, lanes_of)
    for seed in seeds:
        yield from (Task("pg18", RECOVERY, seed, lanes_of) for lanes_of in ALONE)


def chosen(options: argparse.Namespace) -> list[Task]:
    """Return the runs that the options ask for."""
    return [
        task
        for task in tasks(options)
        if (not options.sites or task.site in options.sites)
        and (not options.scenarios or task.scenario in options.scenarios)
    ]


def play(todo: list[Task], until: float) -> Iterator[Run]:
    """Yield the runs; begin none after `until`. Servers that a run left unusable are replaced.

    Raises:
        Exception: three runs one after the other could not be done.
    """
    failures = 0
    while todo and monotonic() < until:
        name = todo[0].site
        with site(name) as cluster:
            while todo and todo[0].site == name and monotonic() < until:
                task = todo.pop(0)
                try:
                    run = rehearse(name, cluster, *task[1:])
                except Exception:
                    failures += 1
                    if failures == FAILURES_IN_A_ROW:
                        raise
                    print(f"{name}, {task.scenario}, seed {task.seed}: could not be done")
                    traceback.print_exc()
                    todo.insert(0, task)
                    break
                failures = 0
                yield run


def describe(run: Run) -> str:
    """Return one line on a run."""
    harmed = [f"{each.lane} {each.damage}" for each in run.outcomes if each.damage]
    slowest = max(
        (max(each.recovery, default=0) for each in run.outcomes if each.claims), default=0
    )
    return (
        f"{run.site}, {run.scenario}, seed {run.seed}: no writer for {run.outage:.2f} s, "
        f"datakit back within {slowest:.2f} s; harmed: {', '.join(harmed) or 'none'}"
    )


def main() -> int:
    """Run, write the results, return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each scenario")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="the first")
    parser.add_argument("--minutes", type=float, default=180, help="begin no run after that")
    parser.add_argument("--sites", nargs="+", choices=(*ALL, *ASYNCHRONOUS))
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS)
    parser.add_argument("--out", type=Path, default=Path(".chaos"), help="the results' directory")
    options = parser.parse_args()
    logging.disable()  # SQLAlchemy tells of every connection that it could not reset
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"seeds {options.seed} to {options.seed + options.runs - 1}")
    runs: list[Run] = []
    todo = chosen(options)
    for run in play(todo, monotonic() + 60 * options.minutes):
        runs.append(run)
        print(describe(run), flush=True)
        _write(options.out, runs)
    print(table(rows_of(runs)))
    broken = breaches(runs)
    if todo:
        broken.append(f"{len(todo)} runs were not done in {options.minutes} minutes")
    print("\n".join(broken) or "all promises kept")
    return bool(broken)


def _write(directory: Path, runs: list[Run]) -> None:
    """Write what there is so far."""
    rows = rows_of(runs)
    (directory / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (directory / "table.md").write_text(table(rows))
    (directory / "totals.md").write_text(table(totals(runs)))
    (directory / "recovery.svg").write_text(plot(rows))


if __name__ == "__main__":
    sys.exit(main())
