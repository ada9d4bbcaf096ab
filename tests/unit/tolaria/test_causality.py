"""Whether a model's outputs depend on later positions, and what its layers get by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.events.geometry import parse
from esper.karn import Budget, generate
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kernels.build import module_of
from esper.tolaria.recipes.recipe import OWNER, TaskSection
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.structures import size
from esper.tolaria.step.causality import is_causal
from esper.tolaria.step.preflight import probe
from esper.tolaria.step.tasks import task_of
from tests.unit.kasmina.cases import graft

LENGTH, WORDS = 8, 11


class Reader(nn.Module):
    """Tokens [B, length] to logits [B, length, words], by attention that looks back alone or both
    ways.
    """

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.words = nn.Embedding(WORDS, 16)
        self.mixed, self.head = nn.Linear(16, 48), nn.Linear(16, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.mixed(self.words(tokens)).chunk(3, -1)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        logits: Tensor = self.head(seen)
        return logits


class Recurrent(nn.Module):
    """The same by a recurrent layer, which looks back by itself, and inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.read = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        found = self.read(self.words(input_ids) * attention_mask[..., None])[0]
        return {"logits": self.head(found)}


class Windowed(nn.Module):
    """A convolution that is padded on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.window = nn.Embedding(WORDS, 16), nn.Conv1d(16, 16, 3)
        self.head = nn.Linear(16, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        padded = nn.functional.pad(self.words(tokens).transpose(1, 2), (2, 0))
        logits: Tensor = self.head(self.window(padded).relu().transpose(1, 2))
        return logits


class Classifier(nn.Module):
    """Tokens to one answer: no position has an output."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, LENGTH)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(tokens).mean(1))
        return logits


def tokens(samples: int = 5, seed: int = 0) -> Tensor:
    """Words without an order."""
    return torch.randint(WORDS, (samples, LENGTH), generator=torch.Generator().manual_seed(seed))


def growing_of(model: nn.Module, **settings: Any) -> GrowingModel:
    """The model with seeds."""
    torch.manual_seed(0)
    return GrowingModel(germinate(model, **settings), training=KernelTraining())


NAMED: Split = {
    "input_ids": tokens(),
    "attention_mask": torch.ones(5, LENGTH),
    "labels": tokens(seed=1),
}


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (Reader(causal=True), (tokens(), tokens(seed=1)), True),
        (Reader(causal=False), (tokens(), tokens(seed=1)), False),
        (Recurrent(), NAMED, True),
        (Windowed(), (tokens(), tokens(seed=1)), True),
        (Classifier(), (tokens(), torch.zeros(5, dtype=torch.long)), False),
        (nn.Linear(4, 3), (torch.randn(5, 4), torch.zeros(5, dtype=torch.long)), False),
    ],
    ids=["attention", "both ways", "recurrent", "window", "classifier", "features"],
)
def test_a_model_is_causal_where_later_positions_change_no_earlier_output(
    model: nn.Module, batch: Split, *, expected: bool
) -> None:
    """Asked of the model by what it gives, whatever it is made of; nothing in it moves."""
    growing = growing_of(model)
    before = torch.random.get_rng_state()
    assert is_causal(growing, batch) is expected
    assert torch.equal(before, torch.random.get_rng_state())
    assert growing.module.training


def test_a_causal_models_sequences_get_kernels_that_look_back() -> None:
    """The geometry says so, which is what kernels are made for and matched by; layers with a window
    have no seeds, and the reason says why.
    """
    task = task_of(TaskSection(name="language_model"), OWNER)
    growing = growing_of(Windowed())
    refused = probe(growing, (tokens(), tokens(seed=1)), task)
    assert growing.geometry("head") == f"causal in {LENGTH}"
    assert "look ahead" in refused["window"]
    assert set(growing.layers) == {"head"}
    both = growing_of(Reader(causal=False))
    probe(both, (tokens(), tokens(seed=1)), task)
    assert both.geometry("head") == f"sequence in {LENGTH}"


def test_a_causal_model_without_another_layer_than_windows_is_refused() -> None:
    """Nothing could grow in it."""
    task = task_of(TaskSection(name="language_model"), OWNER)
    growing = growing_of(Windowed(), include=["window"])
    with pytest.raises(UsageError, match=r"No layer can grow: window: .*look ahead"):
        probe(growing, (tokens(), tokens(seed=1)), task)


@pytest.mark.parametrize("family", ["linear", "low_rank", "mlp", "gate", "norm", "attention"])
def test_no_kernel_of_a_causal_model_lets_it_look_ahead(family: str) -> None:
    """With every family grafted and awake, later words change no earlier output."""
    task = task_of(TaskSection(name="language_model"), OWNER)
    growing = growing_of(Reader(causal=True), seeds=1)
    batch = (tokens(), tokens(seed=1))
    probe(growing, batch, task)
    for name, width in (("mixed", 48), ("head", WORDS)):
        ir = generate(
            in_features=16,
            out_features=width,
            family=family,
            budget=Budget.of(20_000, LENGTH),
            seed=1,
            geometry=parse(growing.geometry(name)),
        )
        assert ir is not None
        module = module_of(ir)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
        graft(growing, (name, 0), module, blend=ir.blend, tap=ir.tap, alpha=1.0)
    assert size(batch) == 5
    assert is_causal(growing, batch)
