"""Whether a kernel fits a seed."""

from __future__ import annotations

import pytest

from esper.clock import ManualClock
from esper.events import Origin
from esper.events.records import KernelPublished
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.vetting import Vetting
from tests.unit.kasmina.cases import CASES, KERNEL_ID

CASE = CASES["strided"]
PLACE = CASE.places[0]
GEOMETRY = "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 9x9"


def published(**change: object) -> KernelPublished:
    fields = {
        "kernel_id": KERNEL_ID,
        "blueprint_id": "b",
        "family": "conv2d",
        "in_features": 3,
        "out_features": 3,
        "tap": "LAYER_INPUT",
        "blend": "LERP",
        "parameters": 1,
        "flops": 1,
        "address": "a",
        "sha256": "0",
        "size_bytes": 1,
        "tags": (),
        "parents": (),
        "latency_us": 1.0,
        "geometry": GEOMETRY,
    }
    return KernelPublished(
        **Origin("", "foundry", "0" * 32, ManualClock()).envelope("k"),
        **{**fields, **change},  # type: ignore[arg-type]
    )


def grown() -> GrowingModel:
    growing = GrowingModel(germinate(CASE.host(), seeds=3), training=KernelTraining())
    growing.probe(CASE.inputs(3))
    return growing


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"in_features": 4}, "reads 4 features and writes 3; this seed needs 3 and 3."),
        ({"geometry": ""}, f"is made for features; layer 0 is {GEOMETRY}."),
        (
            {"geometry": "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 9x9"},
            f"is made for conv2d k3x3 s1x1 p1x1 d1x1 g1 in 9x9; layer 0 is {GEOMETRY}.",
        ),
        ({"tap": "HOST_CHUNK", "geometry": "conv2d k1x1 s1x1 p0x0 d1x1 g1 in 5x5"}, ""),
    ],
)
def test_vetting_names_what_does_not_fit(change: dict[str, object], sentence: str) -> None:
    """A kernel of other channels or of another geometry is refused in a sentence that
    names them.
    """
    kernel = published(**change)
    refusal = Vetting({KERNEL_ID: kernel}, grown().shapes()).refusal("GERMINATE", PLACE, KERNEL_ID)
    assert refusal.endswith(sentence)
    assert bool(refusal) == bool(sentence)


@pytest.mark.parametrize(("said", "target"), [(0.6, 0.6), (1.0, 1.0), (0.0, 0.3)])
def test_the_weight_is_the_blueprints(said: float, target: float) -> None:
    """A kernel ramps to the weight of its own blueprint.

    One from before blueprints' weights were published ramps to its way of blending's.
    """
    vetting = Vetting({KERNEL_ID: published(blend="RESIDUAL", alpha_target=said)}, grown().shapes())
    assert vetting.target(KERNEL_ID) == target
    assert vetting.target("unknown") == 0.0
