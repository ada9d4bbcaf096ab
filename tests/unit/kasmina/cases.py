"""Host models of every kind, and kernels for their seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.events.geometry import parse
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.kasmina import GrowingModel, Place, Slot
from esper.kasmina.seeded.layers import reads_and_writes
from esper.kernels.build import module_of
from esper.lifecycle import RunState, SeedState
from esper.tolaria.recipes.recipe import Recipe

KERNEL_ID = "ab" * 32


class Pooled(nn.Module):
    """The mean over positions: [B, C, *S] or [B, L, F] to [B, C]."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.dims = tuple(range(first, last))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


def features() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(12, 5),
    )


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 12),
        nn.LayerNorm(12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(12, 8),
        Pooled(1, 2),
        nn.Linear(8, 5),
    )


def strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.3),
        nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular"),
        nn.InstanceNorm2d(8, track_running_stats=True),
        nn.ReLU(inplace=True),
        Pooled(2, 4),
        nn.Linear(8, 5),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, groups=8, padding=1, stride=(2, 1)),
        nn.ReLU(inplace=True),
        Pooled(2, 4),
        nn.Linear(8, 5),
    )


def signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 9, 5, stride=2, padding=2, padding_mode="reflect"),
        nn.BatchNorm1d(9),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Conv1d(9, 6, 3, padding=2, dilation=2, groups=3),
        nn.ReLU(inplace=True),
        Pooled(2, 3),
        nn.Linear(6, 5),
    )


def upsampling() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.ConvTranspose2d(8, 6, (2, 3), stride=(1, 2), dilation=(2, 1), groups=2, bias=False),
        nn.ReLU(inplace=True),
        Pooled(2, 4),
        nn.Linear(6, 5),
    )


@dataclass(frozen=True)
class Case:
    """A host, the shape of one sample, and two seeds that take kernels."""

    make: Callable[[], nn.Module]
    sample: tuple[int, ...]
    places: tuple[Place, Place]

    def host(self) -> nn.Module:
        torch.manual_seed(3)
        return self.make()

    def inputs(self, batch: int, seed: int = 1) -> Tensor:
        return torch.randn(batch, *self.sample, generator=torch.Generator().manual_seed(seed))


CASES = {
    "features": Case(features, (8,), (("0", 1), ("4", 0))),
    "sequence": Case(sequence, (7, 8), (("0", 1), ("4", 2))),
    "strided": Case(strided, (3, 9, 9), (("0", 1), ("4", 0))),
    "grouped": Case(grouped, (4, 8, 8), (("0", 1), ("4", 2))),
    "upsampling": Case(upsampling, (4, 5, 4), (("0", 1), ("4", 2))),
    "signal": Case(signal, (2, 21), (("0", 2), ("4", 0))),
}


def kernel(growing: GrowingModel, place: Place, *, tap: str = "LAYER_INPUT") -> nn.Module:
    """A small kernel with a nonlinearity that fits a seed: for a convolution, one of the host's
    window, stride and padding.
    """
    layer = growing.layers[place[0]]
    reads, width = reads_and_writes(layer)[0], layer.seeds.chunks[place[1]]
    torch.manual_seed(9)
    if tap == "HOST_CHUNK":
        reads = width
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
        if tap == "HOST_CHUNK":
            return nn.Sequential(kind(reads, width, 1), nn.Tanh())
        window = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return nn.Sequential(kind(reads, width, layer.kernel_size, **window), nn.Tanh())  # type: ignore[arg-type]
    if isinstance(layer, nn.ConvTranspose2d):
        if tap == "HOST_CHUNK":
            return nn.Sequential(nn.Conv2d(reads, width, 1), nn.Tanh())
        alike: dict[str, Any] = {
            name: getattr(layer, name)
            for name in ("kernel_size", "stride", "padding", "output_padding", "dilation")
        }
        return nn.Sequential(nn.ConvTranspose2d(reads, width, **alike), nn.Tanh())
    return nn.Sequential(nn.Linear(reads, 6), nn.Tanh(), nn.Linear(6, width))


def own_kernel(growing: GrowingModel, place: Place) -> Slot:
    """A kernel of Esper's own that fits a seed, with weights that do something."""
    reads, width, geometry = growing.shapes()[place]
    made = (
        generate(
            in_features=reads,
            out_features=width,
            family=family,
            budget=Budget.of(1_000_000, 4096),
            seed=1,
            geometry=parse(geometry),
        )
        for family in ("mlp", "conv2d", "conv1d", "gate", "norm")
    )
    ir = next(one for one in made if one is not None)
    kernel = module_of(ir)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Slot(ir.blueprint_id, ir.family, kernel, ir.blend, ir.tap, ir.alpha_target)


def graft(
    growing: GrowingModel,
    place: Place,
    module: nn.Module | None = None,
    *,
    blend: str = "LERP",
    tap: str = "LAYER_INPUT",
    alpha: float | None = None,
) -> Slot:
    """Put a kernel into a seed; with `alpha` it is live at that weight."""
    slot = Slot(
        KERNEL_ID,
        "test",
        module or kernel(growing, place, tap=tap),
        blend,  # type: ignore[arg-type]
        tap,  # type: ignore[arg-type]
        1.0 if blend == "LERP" else 0.3,
    )
    growing.graft(place, slot)
    if alpha is not None:
        slot.live = True
        slot.alpha.fill_(alpha)
    return slot


def state_of(**stages: str) -> RunState:
    """A running state; stages by `layer_seed`, such as `s0_1="TRAINING"`."""
    seeds = []
    for name, stage in stages.items():
        layer, _, seed = name[1:].rpartition("_")
        seeds.append(
            SeedState(
                layer,
                int(seed),
                stage=stage,  # type: ignore[arg-type]
                execution="ACTIVE",
                kernel_id=KERNEL_ID,
                alpha_target=0.5,
            )
        )
    return RunState("r", status="RUNNING", seeds=tuple(seeds))


def staged(stage: str, *places: Place) -> RunState:
    """A running state in which the seeds at `places` are in `stage`."""
    return state_of(**{f"s{layer}_{seed}": stage for layer, seed in places})


def recipe(**run: object) -> Recipe:
    raw = {
        "name": "t",
        "model": "a:b",
        "data": "a:b",
        "run": run,
        "optimizer": {"clip_norm": 0.5},
        "kernels": {"shadow_passes": 2},
    }
    return Recipe.model_validate(raw)
