from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.kasmina import GrowingModel, KernelTraining, Slot, germinate, harvest
from esper.kasmina.seeded.layers import SeededLayer, chunk_sizes
from esper.kasmina.seeded.structure import state_tensors
from esper.lifecycle import Guardrails, RunState, SeedState
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION


def host(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(12, 5),
    )


def training_state(*places: tuple[str, int]) -> RunState:
    seeds = tuple(
        SeedState(layer, seed, stage="TRAINING", execution="ACTIVE", kernel_id="ab" * 32)
        for layer, seed in places
    )
    return RunState("r", status="RUNNING", seeds=seeds)


def slot(inputs: int, width: int, *, blend: str = "LERP", alpha_target: float = 1.0) -> Slot:
    torch.manual_seed(9)
    kernel = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, width))
    return Slot("ab" * 32, "mlp", kernel, blend, "LAYER_INPUT", alpha_target)  # type: ignore[arg-type]


def recipe(**run: object) -> Recipe:
    raw = {"name": "t", "model": "a:b", "data": "a:b", "run": run, "optimizer": {"clip_norm": 0.5}}
    return Recipe.model_validate(raw)


@pytest.mark.parametrize("batch", [1, 7])
def test_dormant_layer_is_bit_identical_to_the_plain_one(batch: int) -> None:
    """Dormant seeds change no bit of output, gradient or state dict."""
    plain = host().eval()
    seeded = germinate(copy.deepcopy(plain), seeds=4)
    x = torch.randn(batch, 8, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    for module, value in ((plain, x), (seeded, y)):
        module(value).square().sum().backward()
    assert torch.equal(plain(x), seeded(y))
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, y.grad)
    assert list(plain.state_dict()) == list(seeded.state_dict())
    for before, after in zip(plain.parameters(), seeded.parameters(), strict=True):
        assert before.grad is not None
        assert after.grad is not None
        assert torch.equal(before.grad, after.grad)


def test_host_trajectory_is_the_same_beside_a_training_seed() -> None:
    """Over 100 steps with dropout, BatchNorm, in-place ReLU and clipping, a TRAINING seed moves no
    bit of the host, while its kernel learns.
    """
    x, y = torch.randn(64, 8), torch.randint(0, 5, (64,))
    finals, kernels = [], []
    for places in ((), (("0", 1), ("4", 0))):
        module = germinate(host(dropout=0.3), seeds=3)
        growing = GrowingModel(module, training=KernelTraining())
        for place in places:
            layer = growing.layers[place[0]]
            growing.graft(place, slot(growing.shapes()[place][0], layer.seeds.chunks[place[1]]))
        kernels.append([grown.slot.kernel for grown in growing.kernels.values()])
        first = [copy.deepcopy(kernel.state_dict()) for kernel in kernels[-1]]
        stepper = Stepper(growing, recipe(), 100, Method(CLASSIFICATION))
        state = training_state(*places)
        for step in range(100):
            stepper.step(state, step, (x, y), sample=step % 10 == 0)
        names = [name for name in state_tensors(module) if "kernel" not in name]
        finals.append({name: module.state_dict()[name].clone() for name in names})
        for kernel, before in zip(kernels[-1], first, strict=True):
            assert not torch.equal(kernel.state_dict()["0.weight"], before["0.weight"])
    assert finals[0].keys() == finals[1].keys()
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name]), name


@pytest.mark.parametrize("blend", ["RESIDUAL", "LERP"])
def test_blended_gradients_match_float64_finite_differences(blend: str) -> None:
    """The gradients through a blended layer are right, for the input, the host and the kernel
    (central differences in float64).
    """
    torch.manual_seed(0)
    module = germinate(nn.Sequential(nn.Linear(5, 6)), seeds=3).double()
    growing = GrowingModel(module, training=KernelTraining())
    growing.graft(("0", 1), slot(5, 2, blend=blend))
    grown = growing.kernels[("0", 1)]
    grown.slot.kernel.double()
    grown.slot.live, grown.slot.alpha = True, torch.tensor(0.4, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    parameters = [x, *module.parameters()]

    def forward(*values: Tensor) -> Tensor:
        named = dict(zip([name for name, _ in module.named_parameters()], values[1:], strict=True))
        result: Tensor = torch.func.functional_call(module, named, (values[0],))
        return result

    assert torch.autograd.gradcheck(
        forward, tuple(one.detach().requires_grad_() for one in parameters)
    )


def test_blend_formulas() -> None:
    """Residual is h + alpha*k, lerp is (1-alpha)*h + alpha*k, on the seed's own chunk and nowhere
    else.
    """
    module = germinate(nn.Sequential(nn.Linear(5, 7)), seeds=3)
    growing = GrowingModel(module, training=KernelTraining())
    x = torch.randn(4, 5)
    h = module(x)
    for blend in ("RESIDUAL", "LERP"):
        one = slot(5, 2, blend=blend)
        growing.graft(("0", 1), one)
        one.live = True
        one.alpha.fill_(0.3)
        expected = h.clone()
        k = one.kernel(x)
        expected[:, 3:5] = h[:, 3:5] + 0.3 * k if blend == "RESIDUAL" else 0.7 * h[:, 3:5] + 0.3 * k
        assert torch.allclose(module(x), expected, atol=1e-6)
        growing.release(("0", 1))
        assert torch.equal(module(x), h)


def test_chunks_cover_a_layer_as_evenly_as_can_be() -> None:
    """Chunk widths add up to the features and differ by one at most."""
    assert chunk_sizes(10, 4) == (3, 3, 2, 2)
    assert chunk_sizes(3, 3) == (1, 1, 1)


def test_harvest_gives_an_ordinary_module_with_the_fossilised_kernels() -> None:
    """The harvested model computes the same, holds no class of Esper, and drops kernels that are
    not fossilised.
    """
    module = germinate(host().eval(), seeds=3)
    growing = GrowingModel(module, training=KernelTraining())
    growing.graft(("0", 1), slot(8, 4))
    kept = growing.kernels[("0", 1)].slot
    kept.live, kept.fossilised = True, True
    kept.alpha.fill_(1.0)
    growing.graft(("4", 0), slot(12, 2))
    plain = harvest(module)
    x = torch.randn(6, 8)
    assert torch.allclose(plain(x), module(x), atol=1e-6)
    assert not any(type(part).__module__.startswith("esper") for part in plain.modules())
    assert isinstance(module[0], SeededLayer)  # type: ignore[index]  # the original is as it was
    assert not [name for name, _ in plain.named_parameters() if name.startswith("4.k")]


def test_useless_rank_one_kernel_never_opens_the_gate() -> None:
    """A kernel of rank 1 in place of a whole chunk of a trained host has a shadow loss above the
    host's, so it is culled when its budget is spent.
    """
    from esper.tolaria.recipes.recipe import GatesSection  # noqa: PLC0415
    from esper.tolaria.step.evaluation import evaluate, paired, with_shadow  # noqa: PLC0415
    from esper.tolaria.step.gates import Evidence, gate  # noqa: PLC0415

    torch.manual_seed(1)
    centres = torch.randn(5, 8) * 2
    labels = torch.randint(0, 5, (600,))
    inputs = centres[labels] + torch.randn(600, 8)
    module = germinate(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5)), seeds=1)
    growing = GrowingModel(module, training=KernelTraining())
    stepper, gates = (
        Stepper(growing, recipe(), 1000, Method(CLASSIFICATION)),
        GatesSection(max_training_steps=200),
    )
    idle = training_state()
    for step in range(300):
        stepper.step(idle, step, (inputs[:500], labels[:500]), sample=False)
    rank_one = nn.Sequential(nn.Linear(8, 1, bias=False), nn.Linear(1, 12, bias=False))
    growing.graft(("0", 0), Slot("ab" * 32, "low_rank", rank_one, "LERP", "LAYER_INPUT", 1.0))
    state = training_state(("0", 0))
    held_out = (inputs[500:], labels[500:])
    moves = []
    for step in range(300, 501):
        stepper.step(state, step, (inputs[:500], labels[:500]), sample=False)
        if step % 50 == 0:
            gap = paired(
                evaluate(growing, held_out, CLASSIFICATION, batch=10).batch_losses,
                evaluate_shadow(growing, held_out),
            )
            evidence = Evidence(growing.kernels[("0", 0)].trained, *gap)
            moves.append(gate(state.seeds[0], evidence, 5, gates, loss=1.0))
    assert (
        with_shadow(growing, held_out, CLASSIFICATION, ("0", 0)).loss
        > evaluate(growing, held_out, CLASSIFICATION).loss
    )
    assert [move.to_stage for move in moves if move] == ["CULLED"]
    assert Guardrails().confidence == 0.7


def evaluate_shadow(growing: GrowingModel, split: tuple[Tensor, Tensor]) -> tuple[float, ...]:
    from esper.kasmina.seeded.shadow import standing_in  # noqa: PLC0415
    from esper.tolaria.step.evaluation import evaluate  # noqa: PLC0415

    return evaluate(
        growing,
        split,
        CLASSIFICATION,
        batch=10,
        mode=lambda: standing_in(growing.switches, ("0", 0)),
    ).batch_losses


def test_statistics_are_those_of_the_output() -> None:
    """Variance, dead ratio and correlation in the buffer are those computed plainly from a layer's
    output.
    """
    module = germinate(nn.Sequential(nn.Linear(4, 6)), seeds=2)
    growing = GrowingModel(module, training=KernelTraining())
    with torch.no_grad():
        module[0].weight[0] = 0  # type: ignore[index]
    x = torch.randn(50, 4)
    growing.switches.sampling = True
    output = module(x).detach()
    growing.switches.sampling = False
    functional.mse_loss(module(x), torch.zeros(50, 6)).backward()
    growing.observe_gradients()
    figures = growing.read_statistics()
    variance = output.var(0, unbiased=False)
    assert figures[("0", 0)].activation_variance == pytest.approx(
        variance[:3].mean().item(), rel=1e-5
    )
    assert figures[("0", 0)].dead_ratio == pytest.approx(1 / 3)
    assert figures[("0", 1)].dead_ratio == 0
    correlation = torch.corrcoef(output[:, 3:].T).abs()
    expected = (correlation.sum() - 3) / 6
    assert figures[("0", 1)].correlation == pytest.approx(expected.item(), rel=1e-4)
    gradient = module[0].weight.grad  # type: ignore[index]
    assert figures[("0", 1)].gradient_norm == pytest.approx(gradient[3:].norm().item(), rel=1e-5)
