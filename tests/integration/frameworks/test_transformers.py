"""Growth in Hugging Face's Trainer: killed anywhere, a run goes on from the Trainer's checkpoints
to the bits of one that nobody disturbed; what cannot work is refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import esper
from esper.errors import UsageError
from esper.integrations.transformers import GrowthCallback, load
from tests.integration.frameworks.lives import (
    EXAMPLES,
    answer,
    changed,
    folded,
    killed_at,
    live,
    moves,
)
from tests.integration.run.whole import esper as command

TRAINER = EXAMPLES / "transformers_trainer.py"
LANGUAGE_CONFIG = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=12)
CONFIG = ViTConfig(
    image_size=8,
    patch_size=4,
    num_channels=1,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=10,
)


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The checkpoints of a run that nobody disturbs, and its answer."""
    folder = tmp_path_factory.mktemp("trainer") / "whole"
    return folder, answer(live(home, TRAINER, folder, "hf-whole"))


def test_a_trainer_goes_on_after_any_death(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Killed before its first checkpoint and within an epoch: parameters, growth and the moves of
    each seed are those of the run that nobody disturbed.
    """
    ended = killed_at(home, TRAINER, tmp_path / "out", "hf-killed", steps=(3, 119))
    assert ended == whole[1]
    assert moves(home, "hf-killed") == moves(home, "hf-whole")
    assert {"TRAINING", "BLENDING"} <= {move["to_stage"] for move in moves(home, "hf-killed")}
    fold = folded(home, "hf-killed")
    assert fold["equals_live"] is True


@pytest.mark.variant
def test_checkpoints_of_epochs_go_on_too(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Saved when the run has ended the epoch, too."""
    path = changed(TRAINER, tmp_path, "save_steps=10", 'save_strategy="epoch"')
    assert killed_at(home, path, tmp_path / "out", "hf-epochs", steps=(70,)) == whole[1]
    assert moves(home, "hf-epochs") == moves(home, "hf-whole")


def test_steps_of_several_batches_go_on(home: Path, tmp_path: Path) -> None:
    """Seven steps an epoch, the last of two batches instead of three; killed in an epoch."""
    asked = "num_train_epochs=14, gradient_accumulation_steps=3"
    path = changed(TRAINER, tmp_path, "num_train_epochs=9", asked)
    undisturbed = answer(live(home, path, tmp_path / "whole", "hf-several"))
    ended = killed_at(home, path, tmp_path / "out", "hf-several-killed", steps=(33,))
    assert ended == undisturbed
    assert moves(home, "hf-several-killed") == moves(home, "hf-several")
    assert "BLENDING" in {move["to_stage"] for move in moves(home, "hf-several")}


@pytest.mark.parametrize("kind", ["counted", "averaged"])
def test_the_batches_of_a_step_count_as_one(home: Path, tmp_path: Path, kind: str) -> None:
    """Two of four samples train as one of eight does: by the labels that each has, where the
    Trainer counts them for the model, else by halves.
    """
    path = tmp_path / "several.py"
    path.write_text(SEVERAL)
    one, two = (
        float(answer(live(home, path, tmp_path / many, many, kind))[-1]) for many in ("8x1", "4x2")
    )
    assert one == pytest.approx(two, rel=1e-4)


def test_a_model_may_divide_by_its_own_labels(home: Path, tmp_path: Path) -> None:
    """Where it leaves the Trainer's count aside, its loss is the task's whatever was counted."""
    path = tmp_path / "several.py"
    path.write_text(SEVERAL)
    assert float(answer(live(home, path, tmp_path / "own", "8x1", "own"))[-1]) > 0


def test_a_trainer_goes_on_from_an_earlier_checkpoint(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Not from the last snapshot: from that which the checkpoint names. What the journal has after
    it is done again, and is the same.
    """
    out = tmp_path / "out"
    live(home, TRAINER, out, "hf-earlier", KILL_AT="125")
    for step in (110, 120):
        shutil.rmtree(out / f"checkpoint-{step}")
    assert answer(live(home, TRAINER, out, "hf-earlier")) == whole[1]
    assert moves(home, "hf-earlier") == moves(home, "hf-whole")


def test_a_checkpoint_of_a_grown_model_loads(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """In the Trainer's way without what has grown; by `load` with it, to the same outputs."""
    last = whole[0] / "checkpoint-180"
    images = torch.randn(5, 1, 8, 8)
    final = ViTForImageClassification(CONFIG).eval()
    wrote = command(home, "model", "hf-whole", "--out", str(tmp_path / "final.safetensors"))
    assert wrote.returncode == 0, wrote.stderr
    esper.load(tmp_path / "final.safetensors", final)
    read = load(last, ViTForImageClassification(CONFIG)).eval()
    assert any("kernel_0" in name for name in read.state_dict())
    assert torch.equal(read(images).logits, final(images).logits)
    host = ViTForImageClassification.from_pretrained(last).eval()
    weights = dict(host.named_parameters())
    assert all(
        torch.equal(weights[name], one)
        for name, one in read.named_parameters()
        if "kernel_" not in name
    )


def test_what_a_checkpoint_lacks_is_said(home: Path, tmp_path: Path) -> None:
    """One whose mark is gone, and one whose weights are others, are refused in a sentence; so is a
    second run of the name.
    """
    out = tmp_path / "out"
    live(home, TRAINER, out, "hf-odd", KILL_AT="35")
    last = out / "checkpoint-30"
    state = json.loads((last / "trainer_state.json").read_text())
    kept = (last / "model.safetensors").read_bytes()
    changed = load_file(last / "model.safetensors")
    changed["classifier.bias"] += 1
    save_file(changed, last / "model.safetensors", metadata={"format": "pt"})
    assert (
        "other weights than run hf-odd had at step 30" in live(home, TRAINER, out, "hf-odd").stderr
    )
    (last / "model.safetensors").write_bytes(kept)
    assert "is of run hf-odd, not of hf-other" in live(home, TRAINER, out, "hf-other").stderr
    state["stateful_callbacks"]["GrowthCallback"]["attributes"]["snapshot"] = "t0-s31-n9"
    (last / "trainer_state.json").write_text(json.dumps(state))
    assert "cannot go on from this checkpoint" in live(home, TRAINER, out, "hf-odd").stderr
    del state["stateful_callbacks"]["GrowthCallback"]
    (last / "trainer_state.json").write_text(json.dumps(state))
    assert "names no snapshot of a run" in live(home, TRAINER, out, "hf-odd").stderr


def test_what_a_trainer_cannot_follow_ends_it(
    home: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """A rollback ends the loop with a sentence, and the checkpoint that it names goes on in the new
    timeline. An error of the user's own leaves the run paused, and the next life goes on.
    """
    out = tmp_path / "out"
    left = live(home, TRAINER, out, "hf-back", BACK_AT="45")
    assert "run it again from its checkpoint of step 40" in left.stderr
    assert answer(live(home, TRAINER, out, "hf-back"))
    assert folded(home, "hf-back")["status"] == "COMPLETED"
    raised = live(home, TRAINER, tmp_path / "raised", "hf-raised", RAISE_AT="33")
    assert "ValueError: mine" in raised.stderr
    assert folded(home, "hf-raised")["status"] == "PAUSED"
    assert answer(live(home, TRAINER, tmp_path / "raised", "hf-raised")) == whole[1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"fp16": True, "use_cpu": False}, "fp16"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"save_only_model": True}, "save_only_model"),
        ({"ignore_data_skip": True}, "ignore_data_skip"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"restore_callback_states_from_checkpoint": True}, "restore_callback_states"),
        ({"torch_compile": True}, "torch_compile"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "load_best_model_at_end",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    """Before the first step, when the Trainer is made."""
    with pytest.raises(UsageError, match=said):
        _trainer(tmp_path, **asked)


def _trainer(tmp_path: Path, held_out: Any = None, **asked: Any) -> Trainer:
    arguments = TrainingArguments(
        str(tmp_path), **{"use_cpu": True, "report_to": "none", "max_steps": 3} | asked
    )
    samples = [
        {"pixel_values": torch.randn(1, 8, 8), "labels": number % 10} for number in range(16)
    ]
    growing = GrowthCallback(
        held_out=held_out
        or {"pixel_values": torch.randn(20, 1, 8, 8), "labels": torch.arange(20) % 10},
        tamiyo={"enabled": False},
    )
    return Trainer(
        esper.germinate(ViTForImageClassification(CONFIG), seeds=2),
        arguments,
        train_dataset=samples,
        eval_dataset=samples,
        callbacks=[growing],
    )


PROGRAM = """
import sys, torch, esper
from tests.integration.frameworks.test_transformers import *
from tests.integration.frameworks.test_transformers import _trainer
from pathlib import Path
case = sys.argv[1]
class Halved(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **more):
        return super().compute_loss(model, inputs, **more) / 2
trainer = _trainer(Path(sys.argv[2]))
callbacks = trainer.callback_handler.callbacks
growing = next(one for one in callbacks if isinstance(one, GrowthCallback))
if case == "weighted":
    trainer.__class__ = Halved
elif case == "aside":
    trainer.compute_loss_func = lambda outputs, labels, **_: outputs.logits.sum()
elif case == "late":
    trainer = Trainer(trainer.model, trainer.args, train_dataset=trainer.train_dataset)
    trainer.add_callback(GrowthCallback(held_out=growing._held_out))
elif case == "task":
    smoothed = {"name": "classification", "label_smoothing": 0.9}
    growing._task = smoothed
    torch.nn.init.normal_(trainer.model.classifier.weight, std=3.0)
elif case == "draws":
    def noisy(batch, usual=trainer.data_collator):
        made = usual(batch)
        return {**made, "pixel_values": made["pixel_values"] + torch.randn(1)}
    trainer.data_collator = noisy
elif case == "checkpoints":
    growing._settings["checkpoints"] = {"every_steps": 3}
try:
    trainer.train()
except Exception as error:
    kind = UsageError if isinstance(error, UsageError) else type(error)
    print(kind.__name__, error)
"""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("weighted", "did not train on the loss that its model returned"),
        ("aside", "did not train on the loss that its model returned"),
        ("late", "Trainer(model, ..., callbacks=[...]) itself"),
        ("task", "trains on a loss of"),
        ("checkpoints", "Leave checkpoints out"),
    ],
)
def test_another_loss_is_refused(home: Path, tmp_path: Path, case: str, said: str) -> None:
    """Kernels would learn something else than the host: before the optimizer has moved anything."""
    path = tmp_path / "wrong.py"
    path.write_text(PROGRAM)
    done = live(home, path, case, tmp_path / "out")
    assert said in done.stdout, done.stdout + done.stderr
    assert done.stdout.startswith("UsageError")


SEVERAL = """
import sys, torch, esper
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from esper.integrations.transformers import GrowthCallback
folder, asked, kind = sys.argv[1:]
samples, many = map(int, asked.split("x"))
torch.manual_seed(0)
tokens = torch.randint(0, 50, (32, 12))
labels = tokens.clone()
if kind == "counted":
    for row in range(32):
        labels[row, row % 9 + 2 :] = -100
class Averaged(GPT2LMHeadModel):
    accepts_loss_kwargs = False
    def forward(self, input_ids=None, labels=None, attention_mask=None):
        return super().forward(input_ids=input_ids, labels=labels, attention_mask=attention_mask)
class Own(GPT2LMHeadModel):
    def forward(self, input_ids=None, labels=None, attention_mask=None, **given):
        return super().forward(input_ids=input_ids, labels=labels, attention_mask=attention_mask)
made = {"counted": GPT2LMHeadModel, "averaged": Averaged, "own": Own}[kind]
model = esper.germinate(made(GPT2Config(
    n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=12, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)), seeds=2)
if kind != "own":
    model.loss_type = "ForCausalLM"
growing = GrowthCallback(
    held_out={"input_ids": tokens, "labels": labels},
    task={"name": "language_model", "shift": True},
    tamiyo={"enabled": False},
)
Trainer(
    model,
    TrainingArguments(
        folder, num_train_epochs=3, per_device_train_batch_size=samples, save_strategy="no",
        gradient_accumulation_steps=many, learning_rate=1e-2, use_cpu=True, report_to="none",
    ),
    train_dataset=[{"input_ids": one, "labels": two} for one, two in zip(tokens, labels)],
    callbacks=[growing],
).train()
print("held-out loss")
print(growing.growth.as_json()["loss"])
"""
LANGUAGE = """
import sys, torch, esper
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from esper.integrations.transformers import GrowthCallback
folder, run_id, *untold = sys.argv[1:]
torch.manual_seed(0)
tokens = torch.randint(0, 50, (48, 12))
batch = {"input_ids": tokens, "labels": tokens}
config = GPT2Config(
    n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=12, bos_token_id=0, eos_token_id=0
)
growing = GrowthCallback(
    held_out={name: one[:16] for name, one in batch.items()},
    run_id=run_id,
    resume=True,
    task={"name": "language_model", "shift": True},
    tamiyo={"enabled": False},
)
model = esper.germinate(GPT2LMHeadModel(config), seeds=2)
if not untold:
    model.loss_type = "ForCausalLM"
trainer = Trainer(
    model,
    TrainingArguments(
        folder,
        num_train_epochs=2,
        save_steps=4,
        bf16=True,
        use_cpu=True,
        report_to="none",
        gradient_checkpointing=True,
    ),
    train_dataset=[{name: one[row] for name, one in batch.items()} for row in range(16, 48)],
    callbacks=[growing],
)
last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
trainer.train(resume_from_checkpoint=last)
print(growing.growth.as_json()["metrics"])
print(growing.growth.as_json()["digest"])
"""


def test_a_language_model_in_bfloat16_goes_on(home: Path, tmp_path: Path) -> None:
    """With tied weights, labels that the task shifts, and checkpointed activations; killed after a
    checkpoint of an epoch's last step (4), and within the next epoch.
    """
    path = tmp_path / "language.py"
    path.write_text(LANGUAGE)
    untold = live(home, path, tmp_path / "untold", "hf-untold", "untold").stderr
    assert 'model.loss_type = "ForCausalLM"' in untold
    undisturbed = answer(live(home, path, tmp_path / "whole", "hf-language"))
    assert "perplexity" in undisturbed[0]
    ended = killed_at(home, path, tmp_path / "out", "hf-language-killed", steps=(5, 6))
    assert ended == undisturbed
    grown = load(tmp_path / "out" / "checkpoint-8", GPT2LMHeadModel(LANGUAGE_CONFIG))
    names = dict(grown.named_parameters(remove_duplicate=False))
    assert names["lm_head.weight"] is names["transformer.wte.weight"]


def test_random_batches_are_told(home: Path, tmp_path: Path) -> None:
    """What the Trainer would draw otherwise after a checkpoint is said at the beginning."""
    path = tmp_path / "noisy.py"
    path.write_text(PROGRAM)
    assert "draw from global random streams" in live(home, path, "draws", tmp_path / "out").stderr
    assert "draw from global" not in live(home, path, "plain", tmp_path / "plain").stderr


def test_a_state_that_waits_is_not_used(tmp_path: Path) -> None:
    """Between the making of a Trainer and its loop the model takes no kernels; used then, it says
    so, and does not compute with half of what it was given.
    """
    trainer = _trainer(tmp_path)
    model: nn.Module = trainer.model
    state = dict(model.state_dict())
    name = next(name for name, _ in model.named_modules() if name.endswith("q_proj"))
    state[f"{name}.kernel_0.linear1.weight"] = torch.zeros(2, 2)
    model.load_state_dict(state)
    with pytest.raises(UsageError, match="wait for the run to go on"):
        model(torch.randn(1, 1, 8, 8))
