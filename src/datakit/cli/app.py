"""The commands and their options."""

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import datakit

app = typer.Typer(
    name="datakit",
    help="Databases, caches and endpoints that fail over without an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _top() -> None:
    pass


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(datakit.__version__)


@app.command()
def demo(
    report: Annotated[
        Path | None, typer.Option(help="Write a self-contained HTML page of the two lanes.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")
    ] = False,
) -> None:
    """Kill a PostgreSQL primary under load, with and without datakit, in half a minute.

    Real servers on loopback: PostgreSQL 18 primary and synchronous standby, Redis, DNS.
    """
    from datakit.cli.demo import run

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        run(report=report, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("interrupted; the servers are stopped and their files are gone", err=True)
        raise typer.Exit(130) from None


def _stop(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
