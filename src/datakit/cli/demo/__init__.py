"""`datakit demo`: a failover, a stampede and a lost cache on real servers, in half a minute."""

import json
import sys
from pathlib import Path


def run(*, report: Path | None, as_json: bool) -> None:
    """Play the scenes and show their figures.

    report: where to write the HTML page. as_json: print the figures for a script instead.

    Raises:
        MissingExtraError: a package of the demo extra is not installed.
        ConfigError: the report cannot be written there.
    """
    from datakit.cli.demo.display import Display
    from datakit.cli.demo.play import as_plain, play
    from datakit.cli.demo.report import check_writable, write_report

    if report is not None:
        check_writable(report)
    with Display(quiet=as_json) as display:
        figures = play(display)
    if report is not None:
        write_report(report, figures)
    if as_json:
        json.dump(as_plain(figures), sys.stdout, indent=2)
        print()
    else:
        display.summary(figures, report)
