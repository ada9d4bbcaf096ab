"""Live progress of a run, for people: one line for the step, one for each seed that moves.

On standard error, so that --json stays clean.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from esper.errors import printable
from esper.events.records import SeedTransitioned
from esper.lifecycle import RunState
from esper.tolaria.step.stepping import StepFigures

STYLE = {
    "GERMINATED": "cyan",
    "TRAINING": "blue",
    "BLENDING": "magenta",
    "SHADOWING": "yellow",
    "PROBATIONARY": "yellow",
    "FOSSILIZED": "bold green",
    "CULLED": "red",
    "RESETTING": "red",
}
EVERY = 10  # steps between two refreshes of the bar


def say(console: Console, sentence: str) -> None:
    """Print one sentence as it is: what somebody else wrote in it neither moves the cursor nor is
    taken for markup.
    """
    console.print(printable(sentence), highlight=False, markup=False)


class Progress:
    """Shows what the trainer tells. Quiet when `console` is no terminal, but for sentences."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  test {task.fields[score]}  {task.fields[seeds]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=None, loss="-", score="-", seeds="")

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def say(self, sentence: str) -> None:
        """Tell one sentence."""
        say(self.console, sentence)

    def stepped(self, step: int, total: int, figures: StepFigures) -> None:
        """A step is done."""
        if step % EVERY == 0 or step == total:
            self._bar.update(self._task, completed=step, total=total, loss=f"{figures.loss:.3f}")

    def transitioned(self, event: SeedTransitioned) -> None:
        """A seed moved."""
        if self.console.is_terminal and event.to_stage in STYLE:
            kernel = f" {event.family}" if event.family else ""
            place = escape(printable(f"{event.layer}[{event.seed}]{kernel}"))
            self.console.print(
                (
                    f"  epoch {event.epoch:>3}  {place:<22} "
                    f"[{STYLE[event.to_stage]}]{event.to_stage:<13}[/] "
                    f"[dim]{escape(printable(event.reason))}"
                ),
                highlight=False,
            )

    def epoch_ended(self, state: RunState, score: str) -> None:
        """An epoch is over; `score` is that on the test split, with its name."""
        stages = Counter(
            seed.stage for seed in state.seeds if seed.stage not in ("DORMANT", "EMBARGOED")
        )
        seeds = " ".join(f"{count} {stage.lower()}" for stage, count in stages.most_common())
        self._bar.update(self._task, score=score, seeds=seeds)
