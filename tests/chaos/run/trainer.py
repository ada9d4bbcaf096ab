"""A trainer on a broker alone, without Tamiyo and history: `python -m tests.chaos.run.trainer
BOOTSTRAP RUN_ID EPOCHS`, EPOCHS 0 to resume.

Home and store come from the environment, as for `esper run`; exit code and sentence are those of
the command line.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import EsperError
from esper.tolaria.recipes.recipe import load
from esper.tolaria.run.assembly import train


def main(bootstrap: str, run_id: str, epochs: int) -> int:
    """Train, say the result as JSON, give the exit code."""
    overrides = [f"run.epochs={epochs}", "tamiyo.enabled=false"]
    try:
        finished = train(
            Settings(),
            load("mnist1d", overrides) if epochs else None,
            run_id=run_id,
            cluster=bootstrap,
            history_url="http://127.0.0.1:9",
            clock=SystemClock(),
            console=Console(stderr=True, width=1000),
            history_s=0.0,
        )
    except EsperError as error:
        sys.stderr.write(f"esper: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(finished.as_json()) + "\n")
    return 0 if finished.outcome.outcome == "FINISHED" else 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
