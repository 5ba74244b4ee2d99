"""What many runs say together: a table, a plot, and which promises were broken."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from math import ceil, log10
from typing import NamedTuple

from tests.chaos.aws import AWS
from tests.chaos.lanes import WRITERS
from tests.chaos.outcome import Outcome
from tests.chaos.run import Run
from tests.chaos.scenarios import RECOVERY

P99_OF_8, P99_OF_200 = 0.25, 1.0
"""Seconds within which datakit's lanes are back in 99 of 100 cases."""

HEADER = (
    "servers", "scenario", "lane", "runs", "paid", "errors", "unknown", "lost", "by server",
    "twice", "torn", "away", "p50 s", "p99 s", "max s",
)  # fmt: skip


class Row(NamedTuple):
    """One lane in all runs of one scenario on one kind of servers."""

    site: str
    scenario: str
    lane: str
    outcomes: list[Outcome]

    @property
    def recovery(self) -> list[float]:
        """Seconds of all writers that came back, in order."""
        return sorted(seconds for each in self.outcomes for seconds in each.recovery)

    @property
    def claims(self) -> bool:
        """Whether the lane is datakit's."""
        return self.outcomes[0].claims

    @property
    def damage(self) -> int:
        """Errors, payments lost or doubled, writers that did not come back."""
        return sum(each.damage for each in self.outcomes)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        counts = [
            sum(numbers)
            for numbers in zip(
                *(
                    (
                        each.acknowledged, sum(each.errors.values()), each.unknown, each.lost,
                        each.lost_by_server, each.doubled, abs(each.torn), each.away,
                    )
                    for each in self.outcomes
                ),
                strict=True,
            )
        ]  # fmt: skip
        times = [
            f"{quantile(self.recovery, q):.3f}" if self.recovery else "" for q in (50, 99, 100)
        ]
        return [
            self.site,
            self.scenario,
            self.lane,
            *map(str, [len(self.outcomes), *counts]),
            *times,
        ]


def quantile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` of all do not exceed."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """Return the rows, in the order in which they came up."""
    found: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for run in runs:
        for outcome in run.outcomes:
            found[run.site, run.scenario, outcome.lane].append(outcome)
    return [Row(*key, outcomes) for key, outcomes in found.items()]


def totals(runs: Iterable[Run]) -> list[Row]:
    """Return the rows of all scenarios together, save for those that are about time alone."""
    return rows_of(replace(run, scenario="all") for run in runs if run.scenario != RECOVERY)


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    rule = ["---"] * 3 + ["--:"] * (len(HEADER) - 3)
    lines = [HEADER, rule, *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def breaches(runs: Sequence[Run]) -> list[str]:
    """Return the promises that were broken, a sentence each."""
    rows = rows_of(runs)
    return [*_damage(runs), *_controls_unharmed(rows), *_too_slow(rows)]


def _damage(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.site}, {run.scenario}, seed {run.seed}: {each.lane}: {each.errors or each}"
        for run in runs
        for each in run.outcomes
        if each.claims and each.damage
    ]


def _controls_unharmed(rows: Sequence[Row]) -> list[str]:
    """Where nothing happens to those without datakit, a pass of datakit's means nothing."""
    damage: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if not row.claims:
            damage[row.site, row.scenario] += row.damage
    return [
        f"{site}, {name}: the controls show no damage"
        for (site, name), n in damage.items()
        if not n and name != RECOVERY
    ]


def _too_slow(rows: Sequence[Row]) -> list[str]:
    alone = [row for row in rows if row.scenario == RECOVERY and row.recovery]
    theirs = min(
        (quantile(row.recovery, 50) for row in alone if row.lane in AWS.values()), default=None
    )
    found = []
    for row in alone:
        if not row.claims:
            continue
        few = row.outcomes[0].writers == WRITERS
        p50, p99 = (quantile(row.recovery, q) for q in (50, 99))
        if few and theirs is not None and p50 > theirs:
            found.append(f"{row.lane}: median {p50:.3f} s, the AWS wrapper's is {theirs:.3f} s")
        if p99 > (P99_OF_8 if few else P99_OF_200):
            found.append(f"{row.lane}: p99 is {p99:.3f} s")
    return found


LEFT, WIDTH, ROW, TOP = 330, 900, 15, 40
FASTEST, SLOWEST = 0.01, 30.0

TITLE = "Seconds that each writer's payment took from the new writer's first write on"
STYLE = """
text { font:11px system-ui,sans-serif; fill:#57606a } text.h { font-weight:600; fill:#1b1f24 }
line { stroke:#d0d7de } .own { stroke:#0969da; fill:#0969da }
.control { stroke:#cf222e; fill:#cf222e }
line.own, line.control { stroke-width:2; opacity:.45 }
"""


def plot(rows: Sequence[Row]) -> str:
    """Return an SVG: a line a lane, from its first writer to its last, with the median and p99."""
    height = TOP + ROW * (len(rows) + len({row[:2] for row in rows})) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style><rect width='100%' height='100%' fill='#fff'/>",
        f'<text x="10" y="16" class="h">{TITLE}</text>',
    ]
    for seconds in (0.01, 0.1, 1.0, 10.0):
        x = _x(seconds)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height}"/>')
        parts.append(f'<text x="{x + 3}" y="{TOP - 8}">{seconds:g}</text>')
    y, group = TOP, None
    for row in rows:
        if group != row[:2]:
            group = row[:2]
            y += ROW
            parts.append(f'<text x="10" y="{y}" class="h">{escape(", ".join(group))}</text>')
        y += ROW
        parts.append(_line(row, y))
    return "\n".join([*parts, "</svg>\n"])


def _line(row: Row, y: int) -> str:
    harm = f", {row.damage} harmed" if row.damage else ""
    label = f'<text x="30" y="{y}">{escape(row.lane + harm)}</text>'
    if not row.recovery:
        return label
    kind = "own" if row.claims else "control"
    first, half, most, last = (_x(quantile(row.recovery, q)) for q in (0, 50, 99, 100))
    return (
        f'{label}<line class="{kind}" x1="{first}" x2="{last}" y1="{y - 4}" y2="{y - 4}"/>'
        f'<circle class="{kind}" cx="{half}" cy="{y - 4}" r="3.5"/>'
        f'<circle class="{kind}" cx="{most}" cy="{y - 4}" r="2"/>'
    )


def _x(seconds: float) -> float:
    share = log10(max(seconds, FASTEST) / FASTEST) / log10(SLOWEST / FASTEST)
    return round(LEFT + min(share, 1.0) * (WIDTH - LEFT - 20), 1)
