"""Floating-point operations of a training, estimated from recorded figures. Pure.

Convention: a multiply-add is 2 operations, and a backward pass costs two forward passes. A step so
costs 6 operations for each parameter and sample, where each parameter is used once a sample
(Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1). A layer that is
applied at many positions uses its parameters at each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper.errors import EsperError
from esper.events.geometry import parse
from esper.events.records import LayerInventory, RunStarted
from esper.tolaria.recipes.recipe import OWN_LOOP

PASSES: Final = 3
"""Forward passes that a forward and a backward pass cost together."""
METHOD: Final = (
    "Estimate: 2 operations for each multiply-add, and a backward pass costs two forward passes, "
    "so 6 operations for each parameter and sample (Kaplan et al. 2020, arXiv:2001.08361, section "
    "2.1), times the positions at which a recorded layer is applied. Parameters outside of the "
    "recorded layers count once a sample. Kernels count by the operations that their blueprint has "
    "(as torch.utils.flop_counter counts), times 3, from their graft to their end."
)
LEFT_OUT: Final = (
    "Not counted, because nothing has recorded it: shadow passes, held-out and test passes, "
    "optimizer arithmetic, activation functions, and steps that were executed again after a death."
)


@dataclass(frozen=True, slots=True)
class ComputeFacts:
    """Operations of a training; None where a recorded figure is missing, which `missing` names."""

    host_flops_a_sample: int | None
    host_flops: int | None
    kernel_flops: int | None
    total_flops: int | None
    missing: tuple[str, ...]
    method: str = METHOD
    left_out: str = LEFT_OUT


def compute_facts(
    started: RunStarted | None,
    samples: int | None,
    grafts: Sequence[tuple[int, int | None]],
    batch: int,
) -> ComputeFacts:
    """The estimate.

    `samples` were trained on; `grafts` are the steps that each live kernel was trained, with its
    operations a sample; `batch` is samples a step.
    """
    missing = [] if samples is not None else ["samples a step"]
    forward = host_forward(started) if started else None
    if forward is None:
        missing.append("positions of a layer")
    if any(flops is None for _, flops in grafts):
        missing.append("operations of a kernel")
    host = PASSES * forward * samples if forward is not None and samples is not None else None
    kernels = _of_kernels(grafts, batch) if samples is not None else None
    return ComputeFacts(
        host_flops_a_sample=None if forward is None else PASSES * forward,
        host_flops=host,
        kernel_flops=kernels,
        total_flops=None if host is None or kernels is None else host + kernels,
        missing=tuple(missing),
    )


def host_forward(started: RunStarted) -> int | None:
    """Operations of the host's forward for one sample; None where a geometry cannot be read."""
    try:
        applied = sum(layer.parameters * _positions(layer) for layer in started.layers)
    except EsperError:
        return None
    seeded = sum(layer.parameters for layer in started.layers)
    return 2 * (applied + max(0, started.parameters - seeded))


def batch_size(config: Mapping[str, Any]) -> int | None:
    """Samples a step that a recipe says; None for a loop of one's own, which makes its batches."""
    section = config.get("run")
    size = section.get("batch_size") if isinstance(section, dict) else None
    return size if isinstance(size, int) and config.get("model") != OWN_LOOP else None


def _positions(layer: LayerInventory) -> int:
    """How often a layer's weights are used for one sample."""
    geometry = parse(layer.geometry)
    # a transposed convolution spreads each position that it reads
    return math.prod(geometry.size if geometry.transposes else geometry.output_size)


def _of_kernels(grafts: Iterable[tuple[int, int | None]], batch: int) -> int | None:
    total = 0
    for steps, flops in grafts:
        if flops is None:
            return None
        total += PASSES * flops * steps * batch
    return total
