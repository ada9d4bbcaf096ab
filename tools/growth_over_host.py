"""Grown against the host alone, the same seeds side by side: test accuracy of each, their paired
difference, and its 95 % interval.

    .venv/bin/python tools/growth_over_host.py RECIPE [--seeds 10] [--set section.key=value]...

RECIPE is what `esper run` takes. Decisions are in lockstep, so the figures come again bit for bit.
A stack that is up is used; else each run starts one. The last line of standard output is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]  # no stubs in the lock


def run(recipe: str, seed: int, overrides: list[str], *, grown: bool) -> dict[str, Any]:
    """One run's result; without growth Tamiyo is not asked."""
    settings = [
        "decisions=lockstep",
        f"run.seed={seed}",
        f"tamiyo.enabled={str(grown).lower()}",
        *overrides,
    ]
    esper = Path(sys.executable).parent / "esper"
    command = [
        str(esper),
        "run",
        recipe,
        "--json",
        *(argument for one in settings for argument in ("--set", one)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run every seed twice, and say what growth gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    alone, grown, kept = [], [], 0
    for seed in range(arguments.seeds):
        host, run_of_seed = (
            run(arguments.recipe, seed, arguments.overrides, grown=one) for one in (False, True)
        )
        alone.append(100 * host["accuracy"])
        grown.append(100 * run_of_seed["accuracy"])
        kept += bool(run_of_seed["seeds"].get("FOSSILIZED"))
        sys.stdout.write(
            f"seed {seed}: host {alone[-1]:.2f} %, grown {grown[-1]:.2f} %. "
            f"{run_of_seed['growth']}\n"
        )
        sys.stdout.flush()
    # paired by seed: what a seed does to both cancels out, and the interval is narrower
    difference = np.array(grown) - np.array(alone)
    half = float(
        stats.t.ppf(0.975, len(difference) - 1)
        * difference.std(ddof=1)
        / math.sqrt(len(difference))
    )
    report = {
        "recipe": arguments.recipe,
        "seeds": arguments.seeds,
        "host": round(float(np.mean(alone)), 2),
        "grown": round(float(np.mean(grown)), 2),
        "difference": round(float(difference.mean()), 2),
        "interval": [
            round(float(difference.mean()) - half, 2),
            round(float(difference.mean()) + half, 2),
        ],
        "worst": round(float(difference.min()), 2),
        "kept_a_kernel": kept,
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
