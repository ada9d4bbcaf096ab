"""What has seeds and what has none, each with its reason: layers that run past their forward,
names that clash, names with brackets, encoder layers with a fast path.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import esper
from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate, harvest
from esper.kasmina.seeded.fast_path import slow_path
from esper.kasmina.seeded.layers import SeededLayer
from tests.unit.kasmina.cases import graft


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def inputs() -> Tensor:
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def growing_of(model: nn.Module, **settings: Any) -> GrowingModel:
    return GrowingModel(germinate(model, **settings), training=KernelTraining())


def reasons(model: nn.Module) -> dict[str, str]:
    return {row.name: row.reason for row in esper.inventory(model)}


def wrapping(layer: nn.Module) -> None:
    """As libraries hook a layer: the old forward is called within the new one."""
    old = layer.forward

    @functools.wraps(old)
    def forward(*args: Any, **named: Any) -> Any:
        return old(*args, **named) * 2.0

    layer.forward = forward


def replacing(layer: nn.Module) -> None:
    """What the layer's class does is not called at all."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    layer.forward = types.MethodType(forward, layer)


@pytest.mark.parametrize("patch", [wrapping, replacing])
def test_a_forward_that_was_replaced_before_is_left_out(patch: Callable[[nn.Module], None]) -> None:
    """Germination swaps the class, which an object's own forward hides: no seeds, and the reason;
    named in full, it is refused.
    """
    model = net()
    patch(model[0])
    expected = model(inputs())
    growing = growing_of(copy.deepcopy(model))
    growing.probe(inputs())
    assert set(growing.layers) == {"2"}
    assert "was replaced on the object" in growing.excluded["0"]
    assert "was replaced on the object" in reasons(growing.module)["0"]
    assert torch.equal(growing.module(inputs()), expected)
    with pytest.raises(UsageError, match="Layer 0 cannot have seeds: its forward was replaced"):
        germinate(model, include=["0"])


def test_seeds_run_within_a_forward_that_was_wrapped_after() -> None:
    """What calls the seeded forward keeps its seeds, which run inside it."""
    model = germinate(net(), seeds=2)
    wrapping(model[0])  # type: ignore[index]
    growing = GrowingModel(model, training=KernelTraining())
    assert growing.probe(inputs()) == {}
    host = model(inputs())
    graft(growing, ("0", 1), alpha=1.0)
    assert not torch.equal(model(inputs()), host)


def test_a_forward_that_was_replaced_after_loses_its_seeds() -> None:
    """The probe sees that the layer is called and its seeds are not: on the object or the class."""
    model = germinate(net(), seeds=2)
    replacing(model[0])  # type: ignore[index]
    growing = GrowingModel(model, training=KernelTraining())
    assert "another forward" in growing.probe(inputs())["0"]
    assert "another forward" in reasons(model)["0"]
    assert set(growing.layers) == {"2"}


def test_a_forward_that_was_replaced_on_the_class_runs_its_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before or after germination: the seeded class calls whatever its host class has."""

    class Own(nn.Linear):
        pass

    def doubled(self: nn.Linear, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return 2 * functional.linear(input, self.weight, self.bias)

    for before in (True, False):
        model = nn.Sequential(Own(12, 16))
        if before:
            monkeypatch.setattr(Own, "forward", doubled)
        growing = growing_of(model, seeds=2)
        monkeypatch.setattr(Own, "forward", doubled)
        assert growing.probe(inputs()) == {}
        host = model(inputs())
        graft(growing, ("0", 1), alpha=1.0)
        assert not torch.equal(model(inputs()), host)
        monkeypatch.undo()


def test_a_layer_under_two_names_has_its_seeds_once() -> None:
    """A module that is reached twice grows as one: under its first name, in both calls, in the
    harvest too.
    """

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.again = self.first

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.again(torch.relu(self.first(x)))
            return y

    growing = growing_of(Twice(), seeds=2)
    x = torch.randn(3, 8)
    assert growing.probe(x) == {}
    assert list(growing.layers) == ["first"]
    assert list(reasons(growing.module)) == ["first"]
    slot = graft(growing, ("first", 0), alpha=0.5)
    runs: list[object] = []
    slot.kernel.register_forward_hook(lambda *call: runs.append(call))
    slot.fossilised = True
    expected = growing.module.eval()(x)
    assert len(runs) == 2
    assert torch.allclose(harvest(growing.module)(x), expected, atol=1e-6)


def test_a_layer_that_runs_without_gradients_loses_its_seeds() -> None:
    """A kernel could not learn there; one behind a part without gradients can."""

    class HalfFrozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.gradients()):
                x = torch.relu(self.features(x))
            logits: Tensor = self.head(x)
            return logits

        def gradients(self) -> bool:
            return False

    class InTraining(HalfFrozen):
        def gradients(self) -> bool:
            return self.training

    growing = growing_of(HalfFrozen(), seeds=2)
    assert "without gradients" in growing.probe(inputs())["features"]
    assert set(growing.layers) == {"head"}
    assert growing_of(InTraining(), seeds=2).probe(inputs()) == {}
    # nobody knows what a model in evaluation mode does in training
    assert growing_of(HalfFrozen().eval(), seeds=2).probe(inputs()) == {}


@pytest.mark.parametrize("name", ["seeds", "kernel_0", "kernel_17"])
@pytest.mark.parametrize("kind", ["attribute", "buffer", "parameter", "module", "class"])
def test_names_of_the_users_own_do_not_clash(kind: str, name: str) -> None:
    """A layer whose attribute has a name that Esper gives keeps it, and has no seeds."""
    layer: Any = nn.Linear(12, 16)
    own: Any = {
        "attribute": 7,
        "buffer": torch.ones(2),
        "parameter": nn.Parameter(torch.ones(2)),
        "module": nn.ReLU(),
        "class": 7,
    }[kind]
    if kind == "class":
        layer.__class__ = type("Own", (nn.Linear,), {name: own})
    elif kind == "buffer":
        layer.register_buffer(name, own)
    else:
        setattr(layer, name, own)
    model = nn.Sequential(layer, nn.Linear(16, 4))
    growing = growing_of(model, seeds=2)
    growing.probe(inputs())
    assert set(growing.layers) == {"1"}
    assert getattr(layer, name) is own
    assert f"its own attribute {name!r}" in reasons(model)["0"]


def test_layers_with_brackets_in_their_names_can_be_named() -> None:
    """Brackets are the name's or a pattern's, whichever fits; case counts."""
    names = ["block[0]", "block[1]", "block0", "Block0"]

    def made(**settings: Any) -> set[str]:
        model = nn.ModuleDict({name: nn.Sequential(nn.Linear(4, 4)) for name in names})
        growing = growing_of(model, **settings)
        return set(growing.layers)

    assert made(include=["block[0].0"]) == {"block[0].0", "block0.0"}
    assert made(include=["block[[]0].*"]) == {"block[0].0"}
    assert made(include=["block[1]*"]) == {"block[1].0"}
    assert made(include=["block*"]) == {"block[0].0", "block[1].0", "block0.0"}
    assert made(exclude=["block[[]?].*"]) == {"block0.0", "Block0.0"}


class Encoder(nn.Module):
    """torch's own encoder, batch first, with or without a padding mask."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, -1] = True
        y: Tensor = self.encoder(x, src_key_padding_mask=mask if self.masked else None)
        return y[:, :-1]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layers_with_a_fast_path_grow(masked: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """Dormant, evaluation takes the fast path, bit for bit; with a kernel it does not, so that the
    kernel runs; without it again, the fast path is back; a harvest has the kernel in evaluation.
    """
    torch.manual_seed(0)
    plain = Encoder(masked=masked).eval()
    growing = growing_of(copy.deepcopy(plain), seeds=2)
    x = torch.randn(3, 5, 8)
    assert growing.probe(x) == {}
    module = growing.module.eval()
    place = ("encoder.layers.1.linear2", 1)
    assert set(growing.layers) == {
        f"encoder.layers.{layer}.linear{number}" for layer in (0, 1) for number in (1, 2)
    }
    with torch.no_grad():
        fast = plain(x)
        assert torch.equal(module(x), fast)
        with slow_path():
            slow = plain(x)
        assert not torch.equal(slow, fast)  # else nothing of this is a test
        slot = graft(growing, place, alpha=0.0)
        assert torch.allclose(module(x), slow, atol=1e-6)
        slot.alpha.fill_(0.7)
        slot.fossilised = True
        grown = module(x)
        assert not torch.allclose(grown, slow, atol=1e-3)
        assert torch.allclose(harvest(module)(x), grown, atol=1e-5)
        growing.release(place)
        assert torch.equal(module(x), fast)


def test_the_inventory_has_a_row_for_each_layer_with_parameters() -> None:
    """Seeds, or the reason that there are none: kinds that Esper does not know, layers that were
    left out, models that are not germinated; kernels are no layers.
    """

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.volume = nn.Embedding(7, 4), nn.Conv3d(1, 2, 1)
            self.lstm, self.norm = nn.LSTM(4, 4), nn.LayerNorm(4)
            self.used, self.spare, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.complex = nn.Linear(4, 4, dtype=torch.complex64)
            self.token = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(self.words(x).mean(1) + self.token)
            return y

    model = Mixed()
    assert reasons(model)["used"] == "the model is not germinated yet"
    growing = growing_of(model, seeds=2, exclude=["other"])
    growing.probe(torch.tensor([[1, 2], [3, 4]]))
    graft(growing, ("used", 0))
    rows = esper.inventory(model)
    assert [row.name for row in rows if row.seeds] == ["used"]
    found = {row.name: row.reason for row in rows}
    for name, words in {
        "": "no kind of Esper's",
        "words": "no kind of Esper's: it reads indices",
        "volume": "no kind of Esper's: kernels have two dimensions",
        "lstm": "no kind of Esper's: its output follows from a state",
        "norm": "no kind of Esper's",
        "used": "",
        "spare": "the model's forward does not reach it",
        "other": "left out by include or exclude",
        "complex": "its parameters are complex",
    }.items():
        assert found.pop(name).startswith(words), name
    assert not found
    assert {row.layer for row in rows if row.name in ("used", "spare")} == {"Linear"}
    lines = str(rows).splitlines()
    assert len(lines) == len(rows)
    assert any(line.startswith("used") and line.endswith("2 seeds") for line in lines)
    assert isinstance(model.used, SeededLayer)
