"""Where a run stands between two steps, beyond its folded state and its tensors: what a snapshot
notes and a packet tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from esper.kasmina.growth import Place
from esper.tolaria.exchange.packet import EpochFigures
from esper.tolaria.record.snapshot_content import address, place_of
from esper.tolaria.step.evaluation import Figures
from esper.tolaria.step.gates import Evidence
from esper.tolaria.step.stepping import StepFigures
from esper.tolaria.step.tasks import CLASSIFICATION


@dataclass(slots=True)
class Sums:
    """An epoch so far: batches done, and sums or last values of their figures."""

    batches: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    gradient_norm: float = 0.0

    def add(self, figures: StepFigures) -> None:
        """Take in one step."""
        self.batches += 1
        self.loss += figures.loss
        for name, value in figures.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        self.learning_rate, self.gradient_norm = figures.learning_rate, figures.gradient_norm


@dataclass(frozen=True, slots=True)
class Best:
    """The best score on the held-out split so far, the epoch that had it, and how many have passed
    since without a better one.
    """

    score: float
    epoch: int
    since: int = 0

    def after(self, score: float, epoch: int, *, higher: bool, least: float) -> Best:
        """The best once another epoch has ended; `least` is by how much it has to be better.

        What is no number is never better, and anything is better than it.
        """
        gain = score - self.score if higher else self.score - score
        better = math.isnan(self.score) or (gain > least if least else gain > 0)
        if better and not math.isnan(score):
            return Best(score, epoch)
        return replace(self, since=self.since + 1)


@dataclass(slots=True)
class Cursor:
    """`step` counts optimizer steps completed, `sums` is the present epoch, `figures` and `test`
    are of the last one, `best` is None where nobody asks for it.
    """

    step: int = 0
    sums: Sums = field(default_factory=Sums)
    evidence: dict[Place, Evidence] = field(default_factory=dict)
    figures: EpochFigures = field(default_factory=EpochFigures)
    test: Figures = field(default_factory=lambda: Figures(0.0, {}, ()))
    best: Best | None = None

    def known(self, place: Place) -> Evidence:
        """What has been measured of the kernel at a place."""
        return self.evidence.get(place, Evidence())

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "step": self.step,
            "sums": asdict(self.sums),
            "evidence": {
                address(place): asdict(evidence) for place, evidence in self.evidence.items()
            },
            "figures": asdict(self.figures),
            "test": asdict(self.test),
            # not where nobody asks for it: then the notes are those of any Esper
            **({"best": asdict(self.best)} if self.best else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make it what `state_dict` gave, also before there were tasks."""
        measured = bool(state["test"]["batch_losses"])
        test = _with_metrics(state["test"], measured=measured)
        self.step = state["step"]
        self.sums = Sums(**_with_metrics(state["sums"], measured=bool(state["sums"]["batches"])))
        self.evidence = {
            place_of(name): Evidence(**evidence) for name, evidence in state["evidence"].items()
        }
        self.figures = EpochFigures(**_with_score(state["figures"], measured=measured))
        self.test = Figures(test["loss"], test["metrics"], tuple(test["batch_losses"]))
        self.best = Best(**state["best"]) if "best" in state else None


def _with_score(notes: Mapping[str, Any], *, measured: bool) -> dict[str, Any]:
    """Figures of an epoch; before there were tasks, the score was the accuracy."""
    if "score_name" in notes or not measured:
        return dict(notes)
    accuracy = notes["validation_accuracy"]
    return {**notes, **CLASSIFICATION.fields(notes["validation_loss"], {"accuracy": accuracy})}


def _with_metrics(notes: Mapping[str, Any], *, measured: bool) -> dict[str, Any]:
    """Notes of figures; those of snapshots from before there were tasks have the accuracy alone,
    also where nothing had been measured yet.
    """
    figures = dict(notes)
    # the notes are spread last: metrics of a newer snapshot replace the ones made of this
    accuracy = figures.pop("accuracy", 0.0)
    return {"metrics": {"accuracy": accuracy} if measured else {}, **figures}
