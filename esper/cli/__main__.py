"""`python -m esper.cli`: the `esper` command where its script is not installed."""

from __future__ import annotations

from esper.cli import main

main()
