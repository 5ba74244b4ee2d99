"""`python -m datakit.cli`: the same as `datakit`."""

from datakit.cli import main

main()
