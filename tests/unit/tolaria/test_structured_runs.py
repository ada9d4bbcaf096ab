"""Whole runs over data and outputs in structures, and with arguments of a task: killed, resumed and
executed again, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.events.records import CheckpointTaken, EpochEnded, RunStarted
from esper.tolaria.recipes.splits import Splits, digest_of
from esper.tolaria.replay.comparison import differing
from tests.unit.tolaria import laboratory
from tests.unit.tolaria.laboratory import (
    BATCH,
    BATCHES,
    GROWTH,
    Laboratory,
    pair,
    recipe,
    splits_of,
)
from tests.unit.tolaria.test_reexecution import rebuilt


class Structured(nn.Module):
    """The laboratory's host, called by keyword, that gives a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.second = nn.Linear(16, 8)
        self.third = nn.Linear(8, 4)

    def forward(self, *, x: Tensor, more: tuple[Tensor, ...]) -> dict[str, Any]:
        z = torch.relu(self.second(torch.relu(self.first(x * more[0]))))
        return {"logits": self.third(z), "hidden": z}


def structured(samples: int, seed: int) -> dict[str, Any]:
    x, labels = pair(samples, seed)
    labels[::7] = -100
    return {"x": x, "more": (torch.ones_like(x), labels), "labels": labels}


def data() -> Splits:
    return Splits(structured(BATCH * BATCHES, 1), structured(100, 2), structured(100, 3))


def run_over(folder: Path, **sections: Any) -> Laboratory:
    """A run that is killed in the middle and goes on."""
    lab = Laboratory(folder, recipe(checkpoints={"every_epochs": 2}, **sections), GROWTH)
    lab.killed_at(29)
    lab.run(resumed=True)
    return lab


@pytest.mark.parametrize(
    "task",
    [
        "classification",
        {"name": "classification", "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 1.0, 0.5]},
    ],
)
def test_a_run_over_mappings_is_resumed_and_rebuilt_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    """With labels left out, in micro-batches, while kernels train, blend and are kept."""
    monkeypatch.setattr(laboratory, "model", Structured)
    monkeypatch.setattr(laboratory, "data", data)
    lab = run_over(tmp_path / "killed", task=task, run={"accumulate": 3})
    whole = Laboratory(tmp_path / "whole", lab.recipe, GROWTH)
    whole.run()
    ends = [
        [
            (one.parameters_digest, one.validation_loss, dict(one.metrics))
            for one in events
            if isinstance(one, EpochEnded)
        ]
        for events in (lab.journal(), whole.journal())
    ]
    assert ends[0] == ends[1]
    assert len(ends[0]) == lab.recipe.run.epochs
    assert 0 < ends[0][-1][2]["accuracy"] <= 1
    archive = lab.archive()
    assert digest_of(splits_of(archive)) == digest_of(data())
    started = lab.journal()[0]
    assert isinstance(started, RunStarted)
    assert digest_of(data()) in started.versions
    taken = [one for one in lab.journal() if isinstance(one, CheckpointTaken)]
    last = taken[-1]
    stored = archive.tensors.read(last.address, last.sha256)
    for from_scratch in (False, True):
        rerun = rebuilt(archive, last, from_scratch=from_scratch)
        assert differing(rerun.snapshot(), stored) == []


def test_an_archive_has_the_data_that_the_journal_names(tmp_path: Path) -> None:
    """Kept by their digest: a function that gives other data today changes no replay."""
    lab = Laboratory(tmp_path, recipe(run={"epochs": 2}))
    lab.run()
    first = lab.archive()
    assert digest_of(splits_of(first)) == digest_of(laboratory.data())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "data", lambda: pytest.fail("it was kept"))
        assert digest_of(splits_of(lab.archive())) == digest_of(splits_of(first))
        patch.setattr(laboratory, "data", data)
        for path in lab.settings.data_dir.iterdir():
            path.unlink()
        assert digest_of(splits_of(lab.archive())) == digest_of(data())
