"""The `datakit` command."""

import sys


def main() -> None:
    """Run the command line; a failure is one line on stderr and exit status 1."""
    from datakit.errors import ConfigError, MissingExtraError

    try:
        from datakit._extras import require

        require("typer", extra="cli", purpose="the datakit command")
        require("rich", extra="cli", purpose="the datakit command")
        from datakit.cli.app import app

        app()
    except (ConfigError, MissingExtraError) as exc:
        print(f"datakit: {exc}", file=sys.stderr)
        sys.exit(1)
