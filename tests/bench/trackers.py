"""What telling 100 scalars a step costs the training thread, in Esper and in other trackers.

`python -m tests.bench.trackers PYTHON` prints a table; PYTHON is an interpreter that has `wandb`,
`mlflow`, `trackio` and `tensorboard` (with `torch`). Each tracker has a process of its own, all of
them in turns, several rounds. A step takes 5 ms in which Python's lock is free, as it is in torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE_S = 900.0
LOOP = """
import json, math, sys, time
steps, scalars = map(int, sys.argv[1:])
def measured(log, finish):
    took = []
    for step in range(1, steps + 1):
        time.sleep(0.005)
        values = {f"m{at}": math.sin(step * (at + 1) / 1000) for at in range(scalars)}
        begun = time.perf_counter()
        log(step, values)
        took.append((time.perf_counter() - begun) * 1e6)
    begun = time.perf_counter()
    finish()
    took.sort()
    mean = sum(took) / len(took)
    print(json.dumps({
        "mean_us": mean, "p99_us": took[int(len(took) * 0.99)],
        "finish_s": time.perf_counter() - begun,
    }))
"""
PROGRAMS = {
    "Esper": """
import esper
with esper.GrowthTracker() as tracker:
    def log(step, values):
        tracker.step(values["m0"], **values)
        if step % 500 == 0:
            tracker.epoch(values["m0"])
    measured(log, lambda: None)
""",
    "TensorBoard": """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("tb")
def log(step, values):
    for name, value in values.items():
        writer.add_scalar(name, value, step)
measured(log, writer.close)
""",
    "W&B offline": """
import wandb
run = wandb.init(project="bench", mode="offline", settings=wandb.Settings(console="off"))
measured(lambda step, values: run.log(values, step=step), run.finish)
""",
    "MLflow": """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run():
    measured(lambda step, values: mlflow.log_metrics(values, step=step), lambda: None)
""",
    "Trackio": """
import trackio
trackio.init(project="bench")
measured(lambda step, values: trackio.log(values, step=step), trackio.finish)
""",
}
"""The way of each that its documentation gives for many scalars of one step."""


def once(name: str, python: str, steps: int, scalars: int, home: str) -> dict[str, float]:
    """One round of a tracker, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tell.py"
        path.write_text(LOOP + PROGRAMS[name])
        done = subprocess.run(
            [sys.executable if name == "Esper" else python, path, str(steps), str(scalars)],
            cwd=folder,
            env=os.environ | {"HOME": folder, "ESPER_HOME": home, "WANDB_SILENT": "true"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    told: dict[str, float] = json.loads(found[-1])
    return told


def row(name: str, rounds: list[dict[str, float]]) -> str:
    """The median over the rounds, and their range."""
    cells: list[Any] = [name]
    for key, form in (("mean_us", "{:,.0f}"), ("p99_us", "{:,.0f}"), ("finish_s", "{:.2f}")):
        values = [one[key] for one in rounds]
        low, middle, high = (f(values) for f in (min, statistics.median, max))
        cells.append(f"{form.format(middle)} ({form.format(low)} to {form.format(high)})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="an interpreter with the other trackers")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scalars", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        esper = [sys.executable, "-m", "esper.cli"]
        environment = os.environ | {"ESPER_HOME": home}
        subprocess.run([*esper, "up"], env=environment, check=True, timeout=PATIENCE_S)
        told: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        try:
            for _ in range(asked.rounds):
                for name, rounds in told.items():
                    rounds.append(once(name, asked.python, asked.steps, asked.scalars, home))
        finally:
            subprocess.run([*esper, "down"], env=environment, check=True, timeout=PATIENCE_S)
    sys.stdout.write(
        f"{asked.scalars} scalars a step, {asked.steps} steps, {asked.rounds} rounds\n\n"
        "| tracker | mean, µs a step | p99, µs | at the end, s |\n|---|---|---|---|\n"
    )
    for name, rounds in told.items():
        sys.stdout.write(row(name, rounds) + "\n")


if __name__ == "__main__":
    main()
