"""Grown against the host alone, the same seeds side by side: score and loss of each on the test
split, their paired differences, and 95 % intervals.

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
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for seed in range(arguments.seeds):
        host, grown = (
            run(arguments.recipe, seed, arguments.overrides, grown=one) for one in (False, True)
        )
        pairs.append((host, grown))
        name = host["score_name"]
        sys.stdout.write(
            f"seed {seed}: host {name} {host['score']:.4f}, loss {host['loss']:.4f}; "
            f"grown {name} {grown['score']:.4f}, loss {grown['loss']:.4f}. {grown['growth']}\n"
        )
        sys.stdout.flush()
    report = {
        "recipe": arguments.recipe,
        "seeds": arguments.seeds,
        "score": pairs[0][0]["score_name"],
        "score_difference": paired(pairs, "score"),
        "loss_difference": paired(pairs, "loss"),
        "kept_a_kernel": sum(bool(grown["seeds"].get("FOSSILIZED")) for _, grown in pairs),
        "parameters": [grown["parameters"] for _, grown in pairs],
    }
    sys.stdout.write(json.dumps(report) + "\n")


def paired(pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> dict[str, Any]:
    """Means of a figure, its difference (grown less host) with Student's interval at 95 %, and both
    of these as a percentage of the host's mean.

    Paired by seed: what a seed does to both cancels out, and the interval is narrower.
    """
    host, grown = (np.array([both[at][name] for both in pairs]) for at in (0, 1))
    difference = grown - host
    mean, of_host = float(difference.mean()), 100 / float(host.mean())
    half = math.nan
    if len(pairs) > 1:
        quantile = float(stats.t.ppf(0.975, len(pairs) - 1))
        half = quantile * float(difference.std(ddof=1)) / math.sqrt(len(pairs))
    interval = (mean - half, mean + half)
    return {
        "host": round(float(host.mean()), 5),
        "grown": round(float(grown.mean()), 5),
        "mean": round(mean, 5),
        "interval": [round(one, 5) for one in interval],
        "percent": round(of_host * mean, 2),
        "percent_interval": [round(of_host * one, 2) for one in interval],
        "each": [round(float(one), 5) for one in difference],
    }


if __name__ == "__main__":
    main()
