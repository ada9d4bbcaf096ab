"""A probe learns each layer's geometry, moves nothing, and takes seeds from layers where kernels
would change nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import UsageError
from esper.events.geometry import parse
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.seeded.layers import SeededLayer
from tests.unit.kasmina.cases import CASES, graft


def growing_of(model: nn.Module, **settings: Any) -> GrowingModel:
    return GrowingModel(germinate(model, **settings), training=KernelTraining())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("features", ["", ""]),
        ("sequence", ["sequence in 7", "sequence in 7", ""]),
        (
            "strided",
            ["conv2d k3x3 s2x2 p1x1 d1x1 g1 in 9x9", "conv2d k3x3 s1x1 psame d1x1 g1 in 5x5", ""],
        ),
        (
            "grouped",
            ["conv2d k3x1 s1x1 p2x0 d2x1 g2 in 8x8", "conv2d k3x3 s2x1 p1x1 d1x1 g8 in 8x8", ""],
        ),
        (
            "upsampling",
            [
                "conv_transpose2d k3x3 s2x2 p1x1 o1x1 d1x1 g1 in 5x4",
                "conv_transpose2d k2x3 s1x2 p0x0 o0x0 d2x1 g2 in 10x8",
                "",
            ],
        ),
        ("signal", ["conv1d k5 s2 p2 d1 g1 in 21", "conv1d k3 s1 p2 d2 g3 in 11", ""]),
    ],
)
def test_geometry_is_what_the_forward_shows(name: str, expected: list[str]) -> None:
    """Kinds, channels and geometry of the inventory are those of the layers.

    The output size that follows is the real one.
    """
    case = CASES[name]
    growing = growing_of(case.host())
    assert growing.probe(case.inputs(3)) == {}
    layers = growing.inventory()
    assert [layer.geometry for layer in layers] == expected
    for layer in layers:
        module = growing.module.get_submodule(layer.name)
        assert type(module).__bases__[1].__name__ == layer.kind
        assert layer.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert sum(layer.chunks) == layer.out_features
        assert growing.shapes()[(layer.name, 0)] == (
            layer.in_features,
            layer.chunks[0],
            layer.geometry,
        )
    seen: list[Tensor] = []
    growing.module.get_submodule("0").register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    growing(case.inputs(3))
    if parse(expected[0]).convolves:
        assert tuple(seen[0].shape[2:]) == parse(expected[0]).output_size


@pytest.mark.parametrize("name", list(CASES))
def test_a_probe_moves_nothing(name: str) -> None:
    """Parameters, buffers, training modes and the random stream are as before.

    Statistics and table have their rows.
    """
    case = CASES[name]
    growing = growing_of(case.host())
    growing.module.get_submodule("1").eval()
    before = {key: value.clone() for key, value in growing.module.state_dict().items()}
    modes = [module.training for module in growing.module.modules()]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    growing.probe(case.inputs(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in growing.module.modules()] == modes
    for key, value in growing.module.state_dict().items():
        assert torch.equal(value, before[key])
    assert not growing.switches.sampling
    assert growing.read_statistics().keys() == growing.health.keys() == set(growing.places())


class Tangled(nn.Module):
    """What real models do: tied weights, weights read past the forward, a layer used twice,
    attention, an own class of convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.past = nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8)
        self.spare = nn.Linear(8, 8)
        self.padded = Padded(1, 2, 3)
        self.scales = nn.Conv2d(1, 2, 3)
        self.pair = Pair(8, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(x, x, x)[0]
        x = functional.linear(x, self.past.weight, self.past.bias)
        x = self.twice(functional.relu(self.twice(x)))
        image = x[:, None]
        x = (
            x
            + self.padded(image).mean()
            + self.scales(image).mean()
            + self.scales(image[:, :, :4, :5]).mean()
        )
        x = self.encoder(x + self.pair(x)[0])
        logits: Tensor = self.head(x).mean(1)
        return logits


class Padded(nn.Conv2d):
    """A convolution that pads by itself."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(functional.pad(input, (1, 1, 1, 1)))


class Pair(nn.Linear):
    """A layer that gives two things."""

    def forward(self, input: Tensor) -> Any:  # noqa: A002
        return super().forward(input), input


def test_layers_where_kernels_would_change_nothing_have_no_seeds() -> None:
    """Each layer whose forward is not what runs is left out with its reason.

    Tied and shared layers grow; the rest computes as before.
    """
    torch.manual_seed(0)
    plain = Tangled()
    tokens = torch.randint(0, 11, (3, 7))
    before = plain.eval()(tokens)
    growing = growing_of(plain, seeds=4)
    refused = growing.probe(tokens)
    assert set(growing.layers) == {"twice", "encoder.linear1", "encoder.linear2", "head"}
    reasons = growing.excluded
    assert refused.items() <= reasons.items()
    for name, word in {
        "attention.out_proj": "never calls it",
        "encoder.self_attn.out_proj": "never calls it",
        "past": "does not reach it",
        "spare": "does not reach it",
        "padded": "not what its kernel size",
        "scales": "several sizes",
        "pair": "something else than one tensor",
    }.items():
        assert word in reasons[name], name
        assert not isinstance(growing.module.get_submodule(name), SeededLayer)
    assert torch.equal(growing.module(tokens), before)
    slot = graft(growing, ("twice", 1), blend="RESIDUAL", alpha=0.3)
    runs: list[object] = []
    slot.kernel.register_forward_hook(lambda *call: runs.append(call))
    assert not torch.equal(growing.module(tokens), before)
    assert len(runs) == 2


def test_a_transposed_convolution_that_is_told_its_output_size_has_no_seeds() -> None:
    """A kernel does not hear of the `output_size` of a call; one that is what the layer's
    output_padding gives is as none.
    """

    class Sized(nn.Module):
        def __init__(self, size: tuple[int, int]) -> None:
            super().__init__()
            self.up, self.size = nn.ConvTranspose2d(1, 2, 3, stride=2), size

        def forward(self, x: Tensor) -> Any:
            return self.up(x, output_size=self.size)

    told = growing_of(Sized((10, 9)))
    with pytest.raises(UsageError, match=r"up: it turns \(2, 1, 4, 4\) into \(2, 2, 10, 9\)"):
        told.probe(torch.randn(2, 1, 4, 4))
    growing = growing_of(Sized((9, 9)))
    assert growing.probe(torch.randn(2, 1, 4, 4)) == {}
    assert growing.geometry("up") == "conv_transpose2d k3x3 s2x2 p0x0 o0x0 d1x1 g1 in 4x4"


def test_linear_layers_on_other_leading_dimensions_are_features() -> None:
    """[length, batch, features] and [batch, height, width, features] are positions without an
    order: kernels run at each of them.
    """
    for shape in ((5, 3, 4), (3, 5, 5, 4)):
        growing = growing_of(
            nn.Sequential(Turned(), nn.Linear(4, 6))
            if shape[0] == 5
            else nn.Sequential(nn.Linear(4, 6))
        )
        growing.probe(torch.randn(3, 5, 4) if shape[0] == 5 else torch.randn(shape))
        assert [layer.geometry for layer in growing.inventory()] == [""]


class Turned(nn.Module):
    """[batch, length, features] to [length, batch, features]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


def test_what_cannot_grow_is_refused_in_a_sentence() -> None:
    """A layer named in full that cannot have seeds, one whose shape is unknown, a second
    germination and a model without any are refused.
    """
    with pytest.raises(
        UsageError,
        match=(
            r"out_proj cannot have seeds: nn.MultiheadAttention reads its weights and never "
            r"calls it"
        ),
    ):
        germinate(nn.MultiheadAttention(8, 2), include=["out_proj"])
    with pytest.raises(UsageError, match="its shape is not known before a first forward"):
        germinate(nn.Sequential(nn.LazyLinear(3)), include=["0"])
    with pytest.raises(
        UsageError, match=r"No Linear, Conv1d, Conv2d.* layer matches \*; the model has none"
    ):
        germinate(nn.Sequential(nn.ReLU()))
    with pytest.raises(UsageError, match="has seeds already"):
        germinate(germinate(nn.Sequential(nn.Linear(2, 2))))
    growing = growing_of(nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(UsageError, match=r"not known yet; call probe"):
        growing.inventory()
    lost = growing_of(Unreached())
    with pytest.raises(
        UsageError, match="No layer can grow: spare: the model's forward does not reach it"
    ):
        lost.probe(torch.randn(3, 2, 2))


class Unreached(nn.Module):
    """A layer that no forward calls."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_users_subclass_keeps_its_own_forward() -> None:
    """What a subclass does beside the product, and what else its forward takes, stays.

    The class of an excluded layer comes back.
    """

    class Scaled(nn.Linear):
        def forward(self, input: Tensor, scale: float = 1.0) -> Tensor:  # noqa: A002
            return super().forward(input) * scale

    layer = Scaled(4, 6)
    x = torch.randn(2, 4)
    expected = layer(x, scale=2.0)
    module = germinate(nn.Sequential(layer), seeds=2)
    assert torch.equal(module[0](x, scale=2.0), expected)  # type: ignore[index]
    assert isinstance(module[0], SeededLayer)  # type: ignore[index]
    assert isinstance(module[0], Scaled)  # type: ignore[index]
