"""Growth in loops with Accelerate, and in DistributedDataParallel of one rank: killed anywhere,
they go on to the bits of one that nobody disturbed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

import esper
from esper.errors import UsageError
from esper.integrations.accelerate import Growing
from esper.tolaria.recipes.digits import model
from tests.integration.frameworks.lives import (
    EXAMPLES,
    answer,
    changed,
    folded,
    killed_at,
    live,
    moves,
)

LOOP = EXAMPLES / "accelerate_loop.py"
DDP = EXAMPLES / "ddp.py"


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The checkpoints of a run that nobody disturbs, and its answer."""
    folder = tmp_path_factory.mktemp("accelerate") / "whole"
    return folder, answer(live(home, LOOP, folder, "acc-whole"))


def test_a_loop_goes_on_after_any_death(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Killed before its first checkpoint and within epochs; once its last checkpoints are gone, and
    it goes on from an earlier one than the last snapshot.
    """
    out = tmp_path / "out"
    live(home, LOOP, out, "acc-killed", KILL_AT="3")
    live(home, LOOP, out, "acc-killed", KILL_AT="87")
    shutil.rmtree(out / "step-80")
    assert killed_at(home, LOOP, out, "acc-killed", steps=(133,)) == whole[1]
    assert moves(home, "acc-killed") == moves(home, "acc-whole")
    assert folded(home, "acc-killed")["equals_live"] is True


def test_steps_of_several_batches_go_on(home: Path, tmp_path: Path) -> None:
    """Seven steps an epoch, the last of two batches instead of three; killed in an epoch."""
    path = changed(LOOP, tmp_path, "steps=EPOCHS * len(loader)", "steps=EPOCHS * 7, accumulate=3")
    path = changed(path, tmp_path, "EPOCHS = 9", "EPOCHS = 14")
    path = changed(path, tmp_path, "            optimizer.zero_grad()\n", "")
    path = changed(path, tmp_path, "accelerator.backward(", "growth.backward(")
    stepped = "            growth.step()\n"
    due = f"            if not growth.due:\n                continue\n{stepped}"
    path = changed(path, tmp_path, stepped, due)
    moved = "            optimizer.step()\n"
    path = changed(path, tmp_path, moved, f"{moved}            optimizer.zero_grad()\n")
    undisturbed = answer(live(home, path, tmp_path / "whole", "acc-several"))
    ended = killed_at(home, path, tmp_path / "out", "acc-several-killed", steps=(31,))
    assert ended == undisturbed
    assert moves(home, "acc-several-killed") == moves(home, "acc-several")
    assert "BLENDING" in {move["to_stage"] for move in moves(home, "acc-several")}


def test_a_checkpoint_of_a_grown_model_loads(whole: tuple[Path, list[str]]) -> None:
    """By `load_state` into a germinated model in a script without a run, and by `esper.load`."""
    last = whole[0] / "step-180"
    plain = esper.load(last / "model.safetensors", nn.Sequential(model(), nn.Dropout(0.1))).eval()
    assert any("kernel_" in name for name in plain.state_dict())
    images = torch.randn(5, 1, 8, 8)
    accelerator = Accelerator(cpu=True)
    net = esper.germinate(nn.Sequential(model(), nn.Dropout(0.1)), seeds=2)
    read = accelerator.prepare(net)
    accelerator.load_state(str(last))
    assert torch.equal(read.eval()(images), plain(images))


def test_what_a_checkpoint_lacks_is_said(home: Path, tmp_path: Path) -> None:
    """Of another run, or with other weights: a sentence each."""
    out = tmp_path / "out"
    live(home, LOOP, out, "acc-odd", KILL_AT="15")
    assert "is of run acc-odd, not of acc-other" in live(home, LOOP, out, "acc-other").stderr
    weights = load_file(out / "step-10" / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    save_file({**weights, name: weights[name] + 1}, out / "step-10" / "model.safetensors")
    refused = live(home, LOOP, out, "acc-odd").stderr
    (out / "step-10" / "esper.json").write_text("{}")
    assert "names no snapshot of a run" in live(home, LOOP, out, "acc-odd").stderr
    assert "other weights than run acc-odd had at step 10" in refused


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"mixed_precision": "fp8"}, "mixed_precision"),
    ],
)
def test_what_cannot_work_is_refused(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a run."""
    accelerator = Accelerator(cpu=True)
    for name, value in asked.items():
        # put back afterwards: every Accelerator of a process has the same state
        if name == "gradient_accumulation_steps":
            monkeypatch.setattr(accelerator, name, value)
        else:
            monkeypatch.setattr(accelerator.state, "_mixed_precision", value)
    net = esper.germinate(nn.Linear(4, 2), seeds=2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(UsageError, match=said):
        Growing(accelerator, net, optimizer, held_out=(), steps=1)


def test_one_rank_of_ddp_goes_on_after_any_death(home: Path, tmp_path: Path) -> None:
    """Through `esper.grow`, as any loop over `growth.batches`."""
    undisturbed = answer(live(home, DDP, tmp_path / "whole", "ddp-whole"))
    ended = killed_at(home, DDP, tmp_path / "out", "ddp-killed", steps=(33, 127))
    assert ended == undisturbed
    assert moves(home, "ddp-killed") == moves(home, "ddp-whole")
    assert "TRAINING" in {move["to_stage"] for move in moves(home, "ddp-killed")}
