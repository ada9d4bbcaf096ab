"""A harvested layer keeps what the host layer had: class, weights, attributes, arguments, hooks,
parametrizations; and a harvested model is an ordinary one for every tool of torch.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from esper.errors import UsageError
from esper.karn import generate
from esper.karn.ir import Budget
from esper.kasmina import GrowingModel, KernelTraining, Slot, germinate, harvest
from esper.kernels.build import module_of
from esper.tolaria.step.evaluation import evaluate
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import CASES, graft

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(4))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


def foundry_slot(growing: GrowingModel, place: tuple[str, int], family: str) -> Slot:
    """A kernel as the foundry makes it, live and fossilised, in a seed of a layer on features."""
    reads, width, geometry = growing.shapes()[place]
    assert geometry in ("", "sequence in 3")
    budget = Budget.of(20_000, 64)
    ir = generate(in_features=reads, out_features=width, family=family, budget=budget, seed=1)
    assert ir is not None
    slot = Slot(ir.blueprint_id, family, module_of(ir), ir.blend, ir.tap, ir.alpha_target)
    growing.graft(place, slot)
    slot.live = slot.fossilised = True
    slot.alpha.fill_(0.7 * ir.alpha_target)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in slot.kernel.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # what starts at zero says nothing
    return slot


def grown(model: nn.Module, family: str = "mlp", place: tuple[str, int] = ("0", 1)) -> nn.Module:
    """A germinated model with a fossilised kernel."""
    growing = GrowingModel(model, training=KernelTraining())
    growing.probe(X)
    foundry_slot(growing, place, family)
    return model


def no_esper(plain: nn.Module) -> None:
    for part in plain.modules():
        assert not any(one.__module__.startswith("esper") for one in type(part).__mro__), part


@pytest.mark.parametrize("name", list(CASES))
def test_a_harvested_layer_is_of_its_class_with_all_that_it_had(name: str) -> None:
    """Class, weights and every plain attribute are the host's, for each kind of layer."""
    case = CASES[name]
    host, number = case.host(), int(case.places[0][0])
    growing = GrowingModel(germinate(copy.deepcopy(host), seeds=3), training=KernelTraining())
    graft(growing, case.places[0], alpha=0.6).fossilised = True
    plain, before = harvest(growing.module)[number], host[number]  # type: ignore[index]
    assert type(plain) is type(before)
    ours = {"_modules", "_parameters", "_forward_hooks", "_forward_hooks_with_kwargs"}
    attributes = {key: value for key, value in vars(before).items() if key not in ours}
    assert attributes == {key: value for key, value in vars(plain).items() if key not in ours}
    assert "in_features" in attributes or "in_channels" in attributes
    assert torch.equal(plain.weight, before.weight)
    assert list(dict(plain.named_parameters(recurse=False))) == list(
        dict(before.named_parameters(recurse=False))
    )
    assert plain.extra_repr() == before.extra_repr()


@pytest.mark.parametrize("tap", ["LAYER_INPUT", "HOST_CHUNK"])
@pytest.mark.parametrize("blend", ["RESIDUAL", "LERP"])
@pytest.mark.parametrize("name", list(CASES))
def test_every_way_to_call_a_layer_gives_the_same_bits(name: str, blend: str, tap: str) -> None:
    """With a batch and without, by position and by name."""
    case = CASES[name]
    growing = GrowingModel(germinate(case.host(), seeds=3), training=KernelTraining())
    growing.probe(case.inputs(3))
    graft(growing, case.places[0], blend=blend, tap=tap, alpha=0.6).fossilised = True
    number = int(case.places[0][0])
    layer, plain = growing.module[number], harvest(growing.module)[number]  # type: ignore[index]
    x = case.inputs(3)
    for inputs in (x, x[0]):
        assert torch.equal(plain(inputs), layer(inputs))
        assert torch.equal(plain(input=inputs), layer(inputs))
        assert not growing.switches.notes.raised, growing.switches.notes.raised


def test_further_arguments_go_to_the_host_s_forward() -> None:
    """`output_size` of a transposed convolution, and arguments of a class of the user's, by
    position and by name; its own name for the input, too.
    """
    up = nn.ConvTranspose2d(3, 8, 3, stride=2)
    growing = GrowingModel(germinate(nn.Sequential(up), seeds=2), training=KernelTraining())
    x = torch.randn(2, 3, 5, 5)
    growing.probe(x)
    graft(growing, ("0", 0), alpha=0.5).fossilised = True
    layer, plain = growing.module[0], harvest(growing.module)[0]  # type: ignore[index]
    assert torch.equal(plain(x, output_size=(11, 11)), layer(x, [11, 11]))
    assert torch.equal(plain(x, [11, 11]), layer(x))

    germinated = grown(germinate(nn.Sequential(Scaled(8, 12)), seeds=2))
    own, harvested = germinated[0], harvest(germinated)[0]  # type: ignore[index]
    assert type(harvested) is Scaled
    arguments: list[tuple[list[Any], dict[str, Any]]] = [
        ([X, 3.0], {}),
        ([X], {"factor": 3.0}),
        ([], {"factor": 3.0, "features": X}),
    ]
    for args, named in arguments:
        assert torch.equal(harvested(*args, **named), own(*args, **named))
        assert not torch.equal(harvested(*args, **named), own(X))


def test_a_layer_that_is_called_by_name_grows() -> None:
    """The probe sees its input behind other arguments, whatever the layer calls it."""

    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Scaled(8, 12)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(factor=torch.ones(()), features=x)
            return found

    model = grown(germinate(Calling(), seeds=2), place=("layer", 1))
    assert torch.equal(harvest(model)(X), model(X))
    assert not torch.equal(model(X)[:, 6:], Calling()(X)[:, 6:])


class Scaled(nn.Linear):
    """A user's own layer."""

    def forward(self, features: Tensor, factor: float = 1.0) -> Tensor:
        return super().forward(features) * factor


HOOKS: dict[str, Callable[[nn.Module, list[Any]], Any]] = {
    "pre": lambda layer, _: layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,)),
    "pre with names": lambda layer, _: layer.register_forward_pre_hook(
        lambda _, args, named: ((args[0] + 1,), named), with_kwargs=True
    ),
    "forward": lambda layer, _: layer.register_forward_hook(
        lambda _, args, out: out + args[0].sum()
    ),
    "forward, first": lambda layer, _: layer.register_forward_hook(
        lambda _, __, named, out: out * (3 + len(named)), prepend=True, with_kwargs=True
    ),
    "backward": lambda layer, seen: layer.register_full_backward_hook(
        lambda _, reads, writes: seen.append([*reads, *writes])
    ),
    "backward, changing": lambda layer, _: layer.register_full_backward_hook(
        lambda _, reads, __: tuple(one * 2 for one in reads)  # type: ignore[attr-defined]
    ),
    "before backward": lambda layer, seen: layer.register_full_backward_pre_hook(
        lambda _, writes: seen.append([*writes])
    ),
}


@pytest.mark.parametrize("first", ["germination", "hooks"])
@pytest.mark.parametrize("name", [*HOOKS, "all"])
def test_hooks_see_and_change_the_same(name: str, first: str) -> None:
    """Each kind of hook on a grown layer gives the same outputs and gradients after harvest, and
    sees the same.
    """
    model, seen = net(), list[Any]()
    if first == "germination":
        germinate(model, seeds=2)
    for hook in HOOKS if name == "all" else [name]:
        HOOKS[hook](model[0], seen)
    if first == "hooks":
        germinate(model, seeds=2)
    grown(model)
    figures = []
    for one in (model, harvest(model)):
        x = X.clone().requires_grad_()
        seen.clear()
        out = one(x)
        out.square().sum().backward()
        assert x.grad is not None
        figures.append([out, x.grad, *(tensor for call in seen for tensor in call)])
        assert bool(seen) == (name in ("backward", "before backward", "all"))
    for before, after in zip(*figures, strict=True):
        assert torch.equal(before, after)


REPARAMETRISED: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": spectral_norm,
    "prune weight": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "prune bias": lambda layer: prune.l1_unstructured(layer, "bias", amount=0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["mlp", "linear"])
@pytest.mark.parametrize("first", ["germination", "parametrization"])
@pytest.mark.parametrize("name", [*REPARAMETRISED, "old weight_norm"])
def test_a_layer_that_computes_its_weight_is_harvested(name: str, first: str, family: str) -> None:
    """Parametrizations, old norms and pruning, from before or after germination, work on; a kernel
    that is a linear map is no part of a weight that is computed anew.
    """
    set_up = (REPARAMETRISED | {"old weight_norm": weight_norm})[name]
    model = net()
    if first == "germination":
        germinate(model, seeds=2)
    set_up(model[0])
    if first == "parametrization":
        germinate(model, seeds=2)
    grown(model, family)
    model(X).sum().backward()  # leaves a computed weight in autograd's graph
    model.eval()
    plain = harvest(model)
    no_esper(plain)
    want = model(X)
    assert torch.equal(plain(X), want)
    above = parametrize.is_parametrized(model[0])
    assert type(plain[0]).__name__ == ("ParametrizedLinear" if above else "Linear")  # type: ignore[index]
    # the layer's own parameters still decide its weight
    with torch.no_grad():
        for parameter in plain[0].parameters(recurse=True):  # type: ignore[index]
            parameter.mul_(0.5)
    assert not torch.allclose(plain(X), want)
    assert torch.equal(model(X), want)


def test_parametrizations_may_be_removed_from_a_germinated_layer() -> None:
    """What torch puts above a seeded layer, or below it, comes off, and the seeds stay."""
    for first in ("germination", "parametrization"):
        model = net()
        if first == "germination":
            germinate(model, seeds=2)
        parametrizations.weight_norm(model[0])
        if first == "parametrization":
            germinate(model, seeds=2)
        grown(model)
        want = model(X)
        parametrize.remove_parametrizations(model[0], "weight")
        assert torch.allclose(model(X), want, atol=1e-6)
        plain = harvest(model)
        assert type(plain[0]) is nn.Linear  # type: ignore[index]
        assert torch.equal(plain(X), model(X))


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("family", ["linear", "low_rank"])
def test_linear_families_of_the_foundry_are_merged(family: str, seeds: int) -> None:
    """A kernel of a linear family, as the foundry builds it, becomes part of the weight on features
    and at the positions of a sequence, so that nothing is left beside the layer.
    """
    for x in (X, torch.randn(2, 3, 8)):
        growing = GrowingModel(germinate(net(), seeds=seeds), training=KernelTraining())
        growing.probe(x)
        foundry_slot(growing, ("0", seeds - 1), family)
        plain = harvest(growing.module)
        assert list(plain.state_dict()) == list(net().state_dict())
        assert not plain[0]._forward_hooks  # type: ignore[index]
        assert torch.allclose(plain(x), growing.module(x), atol=1e-6)
        assert not torch.allclose(plain(x), net()(x), atol=1e-3)


def test_other_families_are_not_merged() -> None:
    """Every other family on features stays beside the layer, bit for bit."""
    for family in ("mlp", "conv1d", "gate", "norm"):
        model = grown(germinate(net(), seeds=2), family)
        plain = harvest(model)
        assert [name for name in plain.state_dict() if name.startswith("0.kept_0.")], family
        assert torch.equal(plain(X), model(X)), family


def test_a_live_kernel_that_is_left_out_is_named() -> None:
    """Harvest warns of each live kernel that is not fossilised; one that is only training changes
    no output, and is dropped without a word.
    """
    model = grown(germinate(net(), seeds=2))
    model[0].seeds.slots[1].fossilised = False  # type: ignore[index]
    with pytest.warns(UserWarning, match=r"not fossilised are left out.*: mlp at 0\[1\]\.$"):
        plain = harvest(model)
    assert torch.equal(plain(X), net()(X))
    model[0].seeds.slots[1].live = False  # type: ignore[index]
    harvest(model)


class LowRank(nn.Linear):
    """A layer that merges its low-rank part in evaluation and takes it out again in training."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.a = nn.Parameter(torch.randn(2, reads) * 0.3)
        self.b = nn.Parameter(torch.randn(writes, 2) * 0.3)
        self.merged = False
        self.weight.requires_grad = False

    def train(self, mode: bool = True) -> LowRank:  # noqa: FBT001, FBT002  # torch's own signature
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a)
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        found = super().forward(input)
        return found if self.merged else found + input @ self.a.T @ self.b.T


@pytest.mark.parametrize("family", ["mlp", "linear"])
def test_layers_with_a_train_of_their_own_are_asked_to_go_back(family: str) -> None:
    """After probe and validation they are in the mode they were in, all parts of them, and learn;
    a harvested one changes its mode as before.
    """
    torch.manual_seed(0)
    model = nn.Sequential(LowRank(8, 12), nn.ReLU(), nn.Linear(12, 4), LowRank(4, 4).eval())
    growing = GrowingModel(germinate(model, seeds=2), training=KernelTraining())
    growing.probe(X)
    evaluate(growing, (X, torch.zeros(6, dtype=torch.int64)), CLASSIFICATION)
    first, last = model[0], model[3]
    assert isinstance(first, LowRank)
    assert isinstance(last, LowRank)
    assert (first.training, first.merged) == (True, False)
    assert (last.training, last.merged) == (False, True)
    model(X).sum().backward()
    assert first.a.grad is not None
    foundry_slot(growing, ("0", 1), family)
    plain = harvest(model)
    for mode in (True, False, True):
        assert torch.equal(plain.train(mode)(X), model.train(mode)(X))


def test_a_forward_on_the_instance_has_no_seeds_or_is_named_at_harvest() -> None:
    """Set before germination, it would run in place of the seeds, and the layer has none; set
    after it, a copy would call the original's.
    """
    before = net()
    before[0].forward = types.MethodType(lambda self, x: nn.Linear.forward(self, x) * 2, before[0])
    growing = GrowingModel(germinate(before, seeds=2), training=KernelTraining())
    assert list(growing.layers) == ["2"]
    assert "replaced on the object" in growing.excluded["0"]
    assert torch.equal(harvest(before)(X), before(X))

    after = grown(germinate(net(), seeds=2))
    inner = after[0].forward  # type: ignore[index]
    after[0].forward = lambda x: inner(x) * 2  # type: ignore[index]
    with pytest.raises(UsageError, match=r"layer 0 was set on the instance.*del layer\.forward"):
        harvest(after)
    del after[0].forward  # type: ignore[index]
    assert torch.equal(harvest(after)(X), after(X))


def test_a_harvested_model_may_grow_again() -> None:
    """A second germination keeps the first one's kernels, and so does a second harvest."""
    model = grown(germinate(net(), seeds=2))
    once = harvest(model)
    kept = {name: value.clone() for name, value in once.state_dict().items()}
    again = germinate(once, seeds=3)
    assert torch.equal(again(X), model(X))
    grown(again, "gate", ("0", 0))
    assert not torch.equal(again(X), model(X))
    twice = harvest(again)
    no_esper(twice)
    assert torch.equal(twice(X), again(X))
    assert all(twice.state_dict()[name].equal(value) for name, value in kept.items())


def plain_and_expected() -> tuple[nn.Module, Tensor]:
    plain = harvest(grown(germinate(net(), seeds=2))).eval()
    with torch.no_grad():
        return plain, plain(X)


@pytest.mark.filterwarnings("ignore")
def test_torch_s_tools_take_a_harvested_model() -> None:
    """Copies, torch.export with a dynamic batch, tracing, torch.compile, torch.fx, functional calls
    and the replicas of DataParallel compute the same; a copy shares nothing with its original.
    """
    plain, expected = plain_and_expected()
    for strict in (False, True):
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(plain, (X,), strict=strict, dynamic_shapes=dynamic)
        assert torch.allclose(program.module()(X[:4]), expected[:4], atol=1e-6)
    tools: dict[str, Callable[[nn.Module], Any]] = {
        "trace": lambda one: torch.jit.trace(one, (X,)),
        "compile": lambda one: torch.compile(one, backend="eager", fullgraph=True),
        "fx": torch.fx.symbolic_trace,
        "call": lambda one: (
            lambda x: torch.func.functional_call(one, dict(one.named_parameters()), (x,))
        ),
        "replica": lambda one: one._replicate_for_data_parallel(),
    }
    for name, tool in tools.items():
        assert torch.allclose(tool(plain)(X), expected, atol=1e-6), name
    other = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not other(X).any()
    assert torch.equal(plain(X), expected)


def test_a_pickled_harvested_model_needs_no_esper(tmp_path: Path) -> None:
    """`torch.save` of the whole model is loaded in a process that cannot import Esper, and no hook
    that is registered there takes the kernels' place.
    """
    plain, expected = plain_and_expected()
    torch.save((plain, X, expected), tmp_path / "model.pt")
    program = """
import sys
sys.modules["esper"] = None  # any import of it fails
import torch
plain, x, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(plain(x), expected)
for _ in range(200):
    plain[0].register_forward_hook(lambda *_: None)
assert torch.equal(plain(x), expected)
assert not [name for name in sys.modules if name.startswith("esper.")]
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "model.pt")],
        check=True,
        timeout=300,
        cwd=tmp_path,
    )
    again = io.BytesIO()
    torch.save(plain, again)
    assert b"esper" not in again.getvalue()
