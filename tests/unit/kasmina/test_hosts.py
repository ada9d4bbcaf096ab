"""A seeded host is the plain one, bit for bit, while its seeds are dormant or in TRAINING: whatever
kind of layer, precision and loop.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.kasmina import GrowingModel, KernelTraining, Numerics, germinate
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper, numerics_of, stream_seed
from esper.tolaria.step.tasks import CLASSIFICATION
from tests.unit.kasmina.cases import CASES, Case, graft, recipe, staged

STEPS = 40
IMAGES = [name for name, case in CASES.items() if len(case.sample) == 3]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "layout"),
    [*((name, "contiguous") for name in CASES), *((name, "channels_last") for name in IMAGES)],
)
def test_dormant_seeds_change_no_bit(
    name: str,
    precision: str,
    layout: str,
    training: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """Output, its strides, gradients, state dict and random stream are the plain model's: each
    host, precision, memory format and mode.
    """
    case = CASES[name]
    plain = case.host().train(training)
    seeded = germinate(copy.deepcopy(plain), seeds=3)
    found = []
    numerics = Numerics(channels_last=layout == "channels_last")
    for module in map(numerics.place, (plain, seeded)):
        x = numerics.inputs(case.inputs(4)).requires_grad_()
        between: list[Tensor] = []
        handle = module.get_submodule("0").register_forward_hook(
            lambda _, __, output, between=between: between.append(output.detach().clone())
        )
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = module(x)
        output.float().square().sum().backward()
        handle.remove()
        found.append(
            (
                output,
                between[0],
                x.grad,
                *(parameter.grad for parameter in module.parameters()),
                torch.rand(1),
            )
        )
    for before, after in zip(*found, strict=True):
        assert before is not None
        assert torch.equal(before, after)
        assert before.dtype == after.dtype
        assert before.stride() == after.stride()
    assert list(plain.state_dict()) == list(seeded.state_dict())
    for before, after in zip(plain.buffers(), seeded.buffers(), strict=True):
        assert torch.equal(before, after)


def plainly(
    case: Case, settings: Recipe, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The state of the plain model after the steps, by a plain loop that knows nothing of Esper but
    its random streams.
    """
    run, rates = settings.run, settings.optimizer
    model = case.host()
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rates.learning_rate, weight_decay=1e-2)
    low = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(run.precision)
    scaler = torch.amp.GradScaler("cpu", enabled=run.precision == "float16")
    for step, (inputs, labels) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = (
            rates.learning_rate * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        )
        optimizer.zero_grad()
        parts = zip(
            inputs.tensor_split(run.accumulate), labels.tensor_split(run.accumulate), strict=True
        )
        for micro, (x, y) in enumerate(parts):
            torch.manual_seed(stream_seed(run.seed, "forward", step, *([micro] if micro else [])))
            laid = x.contiguous(memory_format=torch.channels_last) if run.channels_last else x
            with torch.autocast("cpu", low, enabled=low is not None):
                logits = model(laid)
            loss = functional.cross_entropy(logits.float(), y)
            scaler.scale(loss if run.accumulate == 1 else loss * (len(y) / len(labels))).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), rates.clip_norm)
        scaler.step(optimizer)
        scaler.update()
    return model.state_dict()


WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "accumulate": {"accumulate": 3},
    "channels_last": {"channels_last": True},
}


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in CASES for way in WAYS if way != "channels_last" or name in IMAGES],
)
def test_host_trajectory_beside_training_seeds_is_the_plain_models(name: str, way: str) -> None:
    """Over 40 steps with clipping, dropout, norms and in-place ReLU, two TRAINING seeds move no bit
    of the host, while their kernels learn.

    The other side of the comparison is a plain model in a plain loop: with autocast, with
    GradScaler, with micro-batches, channels last.
    """
    case = CASES[name]
    settings = recipe(batch_size=8, **WAYS[way])
    labels = torch.randint(0, 5, (STEPS, 8), generator=torch.Generator().manual_seed(2))
    batches = [(case.inputs(8, step), labels[step]) for step in range(STEPS)]
    expected = plainly(case, settings, batches)

    numerics = numerics_of(settings.run)
    module = germinate(numerics.place(case.host()), seeds=3)
    growing = GrowingModel(module, training=KernelTraining(), numerics=numerics)
    slots = [graft(growing, place) for place in case.places]
    first = [copy.deepcopy(slot.kernel.state_dict()) for slot in slots]
    stepper, state = (
        Stepper(growing, settings, STEPS, Method(CLASSIFICATION)),
        staged("TRAINING", *case.places),
    )
    for step, batch in enumerate(batches):
        figures = stepper.step(state, step, batch, sample=step % 10 == 0)
        assert not figures.faults
    for key, value in expected.items():
        assert torch.equal(module.state_dict()[key], value), key
    for slot, before in zip(slots, first, strict=True):
        assert not torch.equal(slot.kernel.state_dict()["0.weight"], before["0.weight"])


@pytest.mark.parametrize("tap", ["LAYER_INPUT", "HOST_CHUNK"])
@pytest.mark.parametrize("blend", ["RESIDUAL", "LERP"])
@pytest.mark.parametrize("name", list(CASES))
def test_gradients_of_live_kernels_match_finite_differences(
    name: str, blend: str, tap: str
) -> None:
    """Gradients through a blended layer are right for the input, the host and the kernel (central
    differences in float64).
    """
    case = CASES[name]
    place = case.places[0]
    module = germinate(nn.Sequential(case.host()[0]), seeds=3).double()  # type: ignore[index]
    growing = GrowingModel(module, training=KernelTraining())
    slot = graft(growing, place, blend=blend, tap=tap, alpha=0.4)
    slot.kernel.double()
    slot.alpha = slot.alpha.double()
    x = case.inputs(2).double()
    names = [key for key, _ in module.named_parameters()]

    def forward(*values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(
            module, dict(zip(names, values[1:], strict=True)), (values[0],)
        )
        return result

    values = tuple(one.detach().requires_grad_() for one in (x, *module.parameters()))
    assert torch.autograd.gradcheck(forward, values, fast_mode=True)


@pytest.mark.parametrize("name", list(CASES))
def test_a_live_kernel_changes_its_own_chunk_alone(name: str) -> None:
    """Residual is h + alpha*k on the seed's own channels and nowhere else, in the host's memory
    format, with and without a batch dimension.
    """
    case = CASES[name]
    place = case.places[0]
    module = germinate(nn.Sequential(case.host()[0]), seeds=3)  # type: ignore[index]
    growing = GrowingModel(module, training=KernelTraining())
    seeds = growing.layers["0"].seeds
    formats = (
        [torch.contiguous_format, torch.channels_last]
        if len(case.sample) == 3
        else [torch.contiguous_format]
    )
    for layout in formats:
        for x in (case.inputs(4).contiguous(memory_format=layout), case.inputs(1)[0]):
            h = module(x)
            slot = graft(growing, place, blend="RESIDUAL", alpha=0.3)
            parts = list(h.split(seeds.chunks, seeds.dim))
            k = slot.kernel(x if x.dim() > 1 else x[None])
            parts[place[1]] = parts[place[1]] + 0.3 * k.reshape(parts[place[1]].shape)
            mixed = module(x)
            assert torch.allclose(mixed, torch.cat(parts, seeds.dim), atol=1e-6)
            assert mixed.stride() == h.stride()
            growing.release(place)
            assert torch.equal(module(x), h)


def test_a_kernel_of_sequences_sees_all_positions() -> None:
    """On [batch, length, features], a kernel with a sequence geometry gets the sequence.

    One of features each position alone.
    """
    module = germinate(nn.Sequential(nn.Linear(4, 6)), seeds=2)
    growing = GrowingModel(module, training=KernelTraining())
    seen: list[tuple[int, ...]] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            result: Tensor = self.inner(x)
            return result

    for index, geometry in enumerate(("", "sequence in 5")):
        slot = graft(growing, ("0", index), Watching(), alpha=1.0)
        slot.geometry = geometry
    assert module(torch.randn(2, 5, 4)).shape == (2, 5, 6)
    assert module(torch.randn(5, 4)).shape == (5, 6)
    assert seen == [(10, 4), (2, 5, 4), (5, 4), (1, 5, 4)]


def test_a_compiled_model_is_not_compiled_again_by_steps_or_alpha() -> None:
    """A dormant compiled model is one graph, however often it runs.

    With a live kernel it is one more, whatever its alpha becomes.
    """
    from torch._dynamo.testing import CompileCounter  # noqa: PLC0415  # it imports the compiler

    case, counter = CASES["strided"], CompileCounter()
    module = germinate(case.host().eval(), seeds=3)
    growing = GrowingModel(module, training=KernelTraining())
    compiled = torch.compile(module, backend=counter)
    x = case.inputs(2)
    for _ in range(4):
        assert torch.equal(compiled(x), module(x))
    assert counter.frame_count == 1
    slot = graft(growing, case.places[0], alpha=0.0)
    for step in range(4):
        slot.alpha.fill_(step / 4)
        assert torch.equal(compiled(x), module(x))
    assert counter.frame_count == 2
