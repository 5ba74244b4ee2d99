"""The demo's page: the two lanes' latency over time as one self-contained HTML file."""

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from datakit.cli.demo.display import failover_rows, other_rows
from datakit.cli.demo.figures import Call, FailoverFigures, Figures
from datakit.errors import ConfigError

WIDTH, HEIGHT = 880, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 34, 28
FASTEST, SLOWEST = 0.0005, 10.0
"""Seconds at the foot and the head of the logarithmic axis."""

STYLE = """
:root { --ink:#1b1f24; --soft:#57606a; --line:#d0d7de; --paper:#fff; --ok:#0969da; --bad:#cf222e }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e6edf3; --soft:#8d96a0; --line:#30363d; --paper:#0d1117; --ok:#58a6ff;
          --bad:#ff7b72 } }
body { font:16px/1.5 system-ui,sans-serif; color:var(--ink); background:var(--paper);
       max-width:56rem; margin:2.5rem auto; padding:0 1rem }
h1 { font-size:1.6rem; line-height:1.2; margin:0 0 .3rem }
h2 { font-size:1.1rem; margin:2rem 0 .5rem }
p { margin:.3rem 0; color:var(--soft); max-width:44rem }
table { border-collapse:collapse; margin:1rem 0; font-variant-numeric:tabular-nums }
th,td { text-align:left; padding:.3rem 1.5rem .3rem 0; border-bottom:1px solid var(--line);
        vertical-align:top }
td.n,th.n { text-align:right }
svg { width:100%; height:auto; display:block; margin:.5rem 0 }
svg text { fill:var(--soft); font-size:12px }
svg text.t { fill:var(--ink); font-size:14px; font-weight:600 }
.grid { stroke:var(--line); stroke-width:1 }
.mark { stroke:var(--soft); stroke-width:1; stroke-dasharray:4 3 }
.ok { stroke:var(--ok); stroke-width:3; stroke-linecap:round; opacity:.55; fill:none }
.bad { stroke:var(--bad); stroke-width:3.5; stroke-linecap:round; opacity:.75; fill:none }
"""


def check_writable(path: Path) -> None:
    """Do nothing when a file can be written at `path`.

    Raises:
        ConfigError: it cannot; said before the demo rather than after it.
    """
    try:
        existed = path.exists()
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as exc:
        raise ConfigError(f"--report {path}: cannot be written ({exc.strerror})") from exc


def write_report(path: Path, figures: Figures) -> None:
    """Write the page."""
    path.write_text(page(figures), encoding="utf-8")


def page(figures: Figures) -> str:
    """Return the page as HTML that loads nothing."""
    failover = figures.failover
    end = max(call.at + call.seconds for lane in failover.calls.values() for call in lane)
    panels = "".join(
        _panel(title, failover.calls[lane], failover, end)
        for lane, title in (
            ("control", "SQLAlchemy + pre_ping"),
            ("datakit", "datakit"),
        )
    )
    rows = "".join(
        f"<tr><td>{escape(label)}</td><td class=n>{ours}</td><td class=n>{theirs}</td></tr>"
        for label, ours, theirs in failover_rows(failover.datakit, failover.control)
    )
    others = "".join(
        f"<tr><td>{escape(scene)}</td><td>{escape(result)}</td></tr>"
        for scene, result in other_rows(figures)
    )
    outage = failover.record_changed_at - failover.killed_at
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>datakit demo: a failover under load</title>
<style>{STYLE}</style>
<h1>A PostgreSQL primary killed under load</h1>
<p>Two lanes of writers over the same seconds, against the same servers. The primary was killed
(SIGKILL), its synchronous standby promoted, and the A record changed {outage:.1f} s after the
kill. Each dot is one write as its caller saw it.</p>
{panels}
<table>
<tr><th></th><th class=n>datakit</th><th class=n>SQLAlchemy + pre_ping</th></tr>{rows}
</table>
<h2>The other scenes</h2>
<table>{others}</table>
<p>Measured in one run of {figures.elapsed_seconds:.0f} s on this machine.</p>
</html>
"""


def _panel(title: str, calls: Sequence[Call], failover: FailoverFigures, end: float) -> str:
    def x(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / end

    def dots(ok: bool) -> str:
        return "".join(
            f"M{x(call.at + call.seconds):.1f} {_y(call.seconds):.1f}h0"
            for call in calls
            if call.ok is ok
        )

    errors = sum(not call.ok for call in calls)
    marks = (
        ("killed", failover.killed_at, "end"),
        ("record changed", failover.record_changed_at, "start"),
    )
    lines = "".join(
        f'<line class=mark x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x(at) + (4 if anchor == "start" else -4):.1f}" y="{TOP + 12}" '
        f'text-anchor="{anchor}">{label}</text>'
        for label, at, anchor in marks
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: latency over time">'
        f'<text class=t x="{LEFT}" y="18">{title}: {errors:,} errors</text>'
        f"{_axes(x, end)}{lines}"
        f'<path class=ok d="{dots(True)}"/><path class=bad d="{dots(False)}"/></svg>'
    )


def _axes(x: Callable[[float], float], end: float) -> str:
    levels = (0.001, 0.01, 0.1, 1.0, 10.0)
    across = "".join(
        f'<line class=grid x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(s):.1f}" y2="{_y(s):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{_y(s) + 4:.1f}" text-anchor="end">{_level(s)}</text>'
        for s in levels
    )
    return across + "".join(
        f'<text x="{x(s):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{s} s</text>'
        for s in range(math.floor(end) + 1)
    )


def _y(seconds: float) -> float:
    within = min(max(seconds, FASTEST), SLOWEST)
    share = math.log(within / FASTEST) / math.log(SLOWEST / FASTEST)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _level(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
