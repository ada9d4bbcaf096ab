"""What a command is held against before the lifecycle sees it: whether its kernel is known and fits
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.events.records import KernelPublished
from esper.karn.place import ALPHA_TARGETS
from esper.kasmina.growth import Shape
from esper.kasmina.seeded.faults import Place
from esper.urza.catalogue import compatible


@dataclass(frozen=True, slots=True)
class Vetting:
    """Known kernels by id, and the shape that a kernel has to fit at each seed."""

    kernels: Mapping[str, KernelPublished]
    shapes: Mapping[Place, Shape]

    def refusal(self, command: str, place: Place, kernel_id: str) -> str:
        """Why the kernel cannot be grafted there, in a sentence.

        Empty when it can, or none is asked for.
        """
        if command != "GERMINATE":
            return ""
        kernel, shape = self.kernels.get(kernel_id), self.shapes.get(place)
        if kernel is None:
            return f"Kernel {kernel_id[:12] or '(none)'} is not in the catalogue of this run."
        if shape is None:
            return f"There is no seed {place[0]}[{place[1]}] in this run."
        reads, width, geometry = shape
        if compatible([kernel], in_features=reads, chunk_width=width, geometry=geometry):
            return ""
        # asked again with its own geometry: if it does not fit even then, the widths are at fault
        if not compatible([kernel], in_features=reads, chunk_width=width, geometry=kernel.geometry):
            fit = f"this seed needs {reads if kernel.tap == 'LAYER_INPUT' else width} and {width}"
            return (
                f"Kernel {kernel_id[:12]} reads {kernel.in_features} features and writes "
                f"{kernel.out_features}; {fit}."
            )
        return (
            f"Kernel {kernel_id[:12]} is made for {kernel.geometry or 'features'}; layer "
            f"{place[0]} is {geometry or 'on features alone'}."
        )

    def target(self, kernel_id: str) -> float:
        """Blending weight that a kernel ramps to by its blueprint.

        Kernels published before they said it have the one of their way to blend.
        """
        kernel = self.kernels.get(kernel_id)
        return (kernel.alpha_target or ALPHA_TARGETS[kernel.blend]) if kernel else 0.0
