"""The demo in the terminal: what is going on now, then the figures."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from datakit.cli.demo.figures import Figures, LaneFigures
from datakit.cli.demo.shop import Shop
from datakit.dns.departures import GRACE

T = TypeVar("T")


class Display:
    """A line for each step while it runs; quiet when the output is for a script."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, step: str) -> None:
        """Show that `step` runs."""
        self._tasks[step] = self._progress.add_task(step, total=1)

    def end(self, step: str) -> None:
        """Show that `step` is done."""
        self._progress.update(self._tasks[step], completed=1)

    def scene(self, title: str, scene: Callable[[Shop], T], shop: Shop) -> T:
        """Return what `scene` measures, shown while it runs."""
        self.begin(title)
        figures = scene(shop)
        self.end(title)
        return figures

    def summary(self, figures: Figures, report: Path | None) -> None:
        """Print the tables."""
        self._console.print()
        self._console.print(_failover_table(figures))
        self._console.print(_other_table(figures))
        if report is not None:
            self._console.print(f"The two lanes over time: {report}", highlight=False)


def failover_rows(datakit: LaneFigures, control: LaneFigures) -> list[tuple[str, str, str]]:
    """Return label, datakit's figure and the control's, for each row of the comparison."""
    return [
        ("writes acknowledged", f"{datakit.acknowledged:,}", f"{control.acknowledged:,}"),
        ("errors seen by callers", f"{datakit.errors:,}", f"{control.errors:,}"),
        ("acknowledged writes lost", f"{datakit.lost:,}", f"{control.lost:,}"),
        ("duplicates", f"{datakit.duplicates:,}", f"{control.duplicates:,}"),
        ("longest call", ms(datakit.longest_seconds), ms(control.longest_seconds)),
    ]


def other_rows(figures: Figures) -> list[tuple[str, str]]:
    """Return scene and result for the scenes with one lane."""
    hit, crowd, move, loss = figures.hit, figures.stampede, figures.dns_move, figures.cache_loss
    return [
        (
            "get_product(1234), twice",
            f"miss {ms(hit.miss_seconds)}, hit {ms(hit.hit_seconds)}, {_queries(hit.queries)}",
        ),
        (
            f"{crowd.callers} callers, one expired key",
            f"{_queries(crowd.queries)}, {crowd.errors} errors",
        ),
        (
            "A record changed",
            f"TTL left {move.ttl_left_seconds:.2f} s, pool moved after "
            f"{move.moved_after_seconds:.2f} s ({GRACE:.0f} s in case it flaps back); "
            f"{move.reads} reads, {move.errors} errors",
        ),
        (
            "Redis killed",
            f"{loss.reads:,} reads, {loss.errors} errors, {loss.wrong} wrong; at most "
            f"{loss.most_loads_at_once} of {loss.loads_allowed} allowed loads at once",
        ),
    ]


def ms(seconds: float) -> str:
    """Return a duration in milliseconds, with the digits that mean something."""
    value = seconds * 1000
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2f} ms"


def _queries(number: int) -> str:
    return "1 SQL query" if number == 1 else f"{number} SQL queries"


def _failover_table(figures: Figures) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="PostgreSQL primary killed under write load")
    table.title_justify = "left"
    table.add_column("")
    table.add_column("datakit", justify="right")
    table.add_column("SQLAlchemy + pre_ping", justify="right")
    failover = figures.failover
    for label, ours, theirs in failover_rows(failover.datakit, failover.control):
        table.add_row(label, ours, theirs)
    return table


def _other_table(figures: Figures) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("", ratio=1)
    table.add_column("", ratio=2)
    for scene, result in other_rows(figures):
        table.add_row(scene, result)
    return table
