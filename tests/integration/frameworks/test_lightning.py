"""Growth in Lightning's Trainer: killed anywhere, a run goes on from Lightning's checkpoints, also
within an epoch, to the bits of one that nobody disturbed; what cannot work is refused.
"""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import UsageError
from esper.integrations.lightning import GrowthCallback
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

TRAINER = EXAMPLES / "lightning_trainer.py"


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The checkpoints of a run that nobody disturbs, and its answer."""
    folder = tmp_path_factory.mktemp("lightning") / "whole"
    return folder, answer(live(home, TRAINER, folder, "pl-whole"))


def test_lightning_goes_on_after_any_death(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Killed before its first checkpoint, and in an epoch after the checkpoint of the last step of
    the one before (140): parameters, growth and the moves of each seed are those of the run that
    nobody disturbed.
    """
    ended = killed_at(home, TRAINER, tmp_path / "out", "pl-killed", steps=(3, 143))
    assert ended == whole[1]
    assert moves(home, "pl-killed") == moves(home, "pl-whole")
    assert "TRAINING" in {move["to_stage"] for move in moves(home, "pl-killed")}
    assert folded(home, "pl-killed")["equals_live"] is True


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        # saved after the epoch's validation, and when its run has ended the epoch too
        ("every_n_train_steps=7", "every_n_epochs=1", 70),
        # Lightning then counts an epoch as begun again, also at its end (140)
        pytest.param("max_epochs=9", "max_steps=180", 143, marks=pytest.mark.variant),
    ],
)
def test_checkpoints_of_other_moments_go_on_too(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]], before: str, after: str, step: int
) -> None:
    """When Lightning saves has no part in the bits, and neither has where it goes on."""
    path, run_id = changed(TRAINER, tmp_path, before, after), f"pl-other-{step}"
    assert killed_at(home, path, tmp_path / "out", run_id, steps=(step,)) == whole[1]
    assert moves(home, run_id) == moves(home, "pl-whole")


def test_steps_of_several_batches_in_bfloat16_go_on(home: Path, tmp_path: Path) -> None:
    """Seven steps an epoch, the last of two batches instead of three; killed in an epoch, while
    kernels learn beside a host under autocast.
    """
    asked = 'max_epochs=14, accumulate_grad_batches=3, precision="bf16-mixed"'
    path = changed(TRAINER, tmp_path, "max_epochs=9", asked)
    undisturbed = answer(live(home, path, tmp_path / "whole", "pl-several"))
    ended = killed_at(home, path, tmp_path / "out", "pl-several-killed", steps=(2, 31))
    assert ended == undisturbed
    assert moves(home, "pl-several-killed") == moves(home, "pl-several")
    assert "BLENDING" in {move["to_stage"] for move in moves(home, "pl-several")}
    other = changed(path, tmp_path, "accumulate_grad_batches=3", "accumulate_grad_batches=2")
    live(home, other, tmp_path / "other", "pl-several-other", KILL_AT="16")
    text = other.read_text()
    other.write_text(text.replace("accumulate_grad_batches=2", "accumulate_grad_batches=4"))
    refused = live(home, other, tmp_path / "other", "pl-several-other")
    assert refused.returncode != 0
    assert "accumulate" in refused.stderr.splitlines()[-1], refused.stderr


def test_the_batches_of_a_step_count_as_one(home: Path, tmp_path: Path) -> None:
    """Two of ten samples train as one of twenty does."""
    path = tmp_path / "several.py"
    path.write_text(SEVERAL)
    one, two = (
        float(answer(live(home, path, tmp_path / many, many))[-1]) for many in ("20x1", "10x2")
    )
    assert one == pytest.approx(two, rel=1e-4)


def test_a_checkpoint_of_a_grown_model_loads(whole: tuple[Path, list[str]]) -> None:
    """In Lightning's way, into a module of the class: with its kernels, to the same outputs as
    `esper.load` gives.
    """
    module = runpy.run_path(str(TRAINER), run_name="example")["Digits"]
    last = whole[0] / "last.ckpt"
    read = module.load_from_checkpoint(last, map_location="cpu", weights_only=True).eval()
    assert any("kernel_" in name for name in read.state_dict())
    state = torch.load(last, weights_only=True)["state_dict"]
    saved = {name.removeprefix("net."): one for name, one in state.items()}
    torch.save(saved, whole[0] / "net.pt")
    plain = esper.load(whole[0] / "net.pt", nn.Sequential(model(), nn.Dropout(0.1))).eval()
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(read.net(images), plain(images))


def test_what_lightning_cannot_follow_ends_it(home: Path, tmp_path: Path) -> None:
    """A rollback ends fit with a sentence, and the checkpoint that it names goes on in the new
    timeline. A checkpoint of another run, or without a mark, is refused.
    """
    out = tmp_path / "out"
    left = live(home, TRAINER, out, "pl-back", BACK_AT="45")
    assert "run it again from its checkpoint of step 42" in left.stderr
    assert folded(home, "pl-back")["status"] == "PAUSED"
    odd = tmp_path / "odd"
    shutil.copytree(out, odd)
    assert "is of run pl-back, not of pl-other" in live(home, TRAINER, odd, "pl-other").stderr
    state = torch.load(odd / "last.ckpt", weights_only=True)
    del state["callbacks"]["GrowthCallback"]
    torch.save(state, odd / "last.ckpt")
    assert "names no snapshot of a run" in live(home, TRAINER, odd, "pl-back").stderr
    assert answer(live(home, TRAINER, out, "pl-back"))
    assert folded(home, "pl-back")["status"] == "COMPLETED"


class Module(lightning.LightningModule):  # type: ignore[misc]  # lightning is not read for types
    """What each test changes."""

    def __init__(self, *, manual: bool = False, twice: bool = False, two: bool = False) -> None:
        super().__init__()
        self.net = esper.germinate(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), seeds=2)
        self.automatic_optimization = not manual
        self.twice, self.two = twice, two

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        if self.twice:
            self.net(batch[0])
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net.parameters(), lr=0.1)
        return [first, torch.optim.SGD(self.net.parameters(), lr=0.1)] if self.two else first


def _fit(
    tmp_path: Path, module: Module, *, plain: bool = False, samples: int = 20, **asked: Any
) -> GrowthCallback:
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 2, (60,))
    growing = GrowthCallback(held_out=(x, y), part="net", tamiyo={"enabled": False})
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [growing],
        }
        | asked
    )
    loader = growing.loader((x, y), batch_size=samples)
    given = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), samples)
    trainer.fit(module, given if plain else loader)
    return growing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "asked", "said"),
    [
        ({}, {"precision": "bf16-true"}, "precision other than 32-true"),
        ({}, {"overfit_batches": 2}, "overfit_batches"),
        ({}, {"max_epochs": -1}, "Training has no end"),
        ({}, {"plain": True}, "growing.loader"),
        ({"manual": True}, {}, "manual optimization"),
        ({"manual": True, "two": True}, {}, "several optimizers"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, module: dict[str, bool], asked: dict[str, Any], said: str
) -> None:
    """Before the first step, and before a stack is started."""
    with pytest.raises(UsageError, match=said):
        _fit(tmp_path, Module(**module), **asked)


SEVERAL = """
import sys, torch
from pathlib import Path
from tests.integration.frameworks.test_lightning import Module, _fit
torch.manual_seed(1)
samples, many = map(int, sys.argv[2].split("x"))
growing = _fit(Path(sys.argv[1]), Module(), samples=samples, accumulate_grad_batches=many)
print("held-out loss")
print(growing.growth.as_json()["loss"])
"""
PROGRAM = """
import sys
from pathlib import Path
from esper.errors import UsageError
from tests.integration.frameworks.test_lightning import Module, _fit
class Doubled(Module):
    def training_step(self, batch, _):
        return super().training_step(batch, _) * 2
module = {"doubled": Doubled(), "twice": Module(twice=True), "ddp": Module()}[sys.argv[2]]
try:
    _fit(Path(sys.argv[1]), module, **({"strategy": "ddp"} if sys.argv[2] == "ddp" else {}))
except Exception as error:
    kind = UsageError if isinstance(error, UsageError) else type(error)
    print(kind.__name__, error)
"""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("doubled", "trains on a loss of"),
        ("twice", "has called net 2 times"),
        # in a process of its own: Lightning leaves a process group and its variables behind
        ("ddp", "more than one device, or a strategy"),
    ],
)
def test_another_loss_is_refused(home: Path, tmp_path: Path, case: str, said: str) -> None:
    """Kernels would learn something else than the host: before the optimizer has moved anything."""
    path = tmp_path / "wrong.py"
    path.write_text(PROGRAM)
    done = live(home, path, tmp_path / "out", case)
    assert done.stdout.startswith("UsageError"), done.stdout + done.stderr
    assert said in done.stdout
