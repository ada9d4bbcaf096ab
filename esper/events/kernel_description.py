"""What blueprints, published kernels and catalogues say of a kernel, in the same words."""

from __future__ import annotations

from typing import TypedDict

from esper.events.records import Blend, KernelPublished, Tap


class KernelDescription(TypedDict):
    """Keyword arguments that the records about kernels have in common.

    Meanings as in BlueprintProposed.
    """

    blueprint_id: str
    family: str
    in_features: int
    out_features: int
    tap: Tap
    blend: Blend
    parameters: int
    flops: int
    geometry: str


def description(kernel: KernelPublished) -> KernelDescription:
    """What is known of a published kernel beside where its artefact is."""
    return KernelDescription(
        blueprint_id=kernel.blueprint_id,
        family=kernel.family,
        in_features=kernel.in_features,
        out_features=kernel.out_features,
        tap=kernel.tap,
        blend=kernel.blend,
        parameters=kernel.parameters,
        flops=kernel.flops,
        geometry=kernel.geometry,
    )
