"""A kernel in memory: its blueprint parsed and its weights as tensors, so that a slot is built
without a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from esper.errors import BuildError, CorruptError
from esper.karn.ir import BlueprintIR, parse
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.seeded.structure import unfilled
from esper.urza.artefact import Artefact, address_of
from esper.vault.boxes import Box


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Blueprint and weights (by parameter name, on the CPU) of a verified kernel.

    The weights are never written: each slot gets a copy.
    """

    ir: BlueprintIR
    weights: Mapping[str, Tensor]
    size_bytes: int

    def slot(self, kernel_id: str) -> Slot:
        """A new slot with a module of its own."""
        slot = unfilled(self.ir, kernel_id)
        with torch.no_grad():
            for name, parameter in slot.kernel.named_parameters():
                parameter.copy_(self.weights[name])
        return slot


def unpack_artefact(artefact: Artefact) -> Unpacked:
    """A kernel out of an artefact that was read and verified in this process."""
    weights = {
        # np.array copies: safetensors gives read-only views, and tensors are writable
        name: torch.from_numpy(np.array(weight))
        for name, weight in artefact.weights.items()
    }
    return Unpacked(
        artefact.ir,
        weights,
        sum(tensor.numel() * tensor.element_size() for tensor in weights.values()),
    )


def unpack(path: Path, kernel_id: str, box: Box) -> Unpacked:
    """The kernel in a verified artefact, sealed in `box`.

    It is read, not mapped: a file that is cut off later does no harm.

    Raises:
        CorruptError: the file is gone or is not an artefact.
    """
    try:
        content = box.opened(address_of(kernel_id), path.read_bytes())
        # safetensors: length of the header in 8 bytes, then its JSON; `load` gives no metadata
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["esper"])
        ir, weights = parse(metadata["ir"]), load(content)
        if set(weights) != set(ir.parameter_shapes):
            raise BuildError("its weights are not its blueprint's")
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        SafetensorError,
        BuildError,
        CorruptError,
    ) as error:
        raise CorruptError(
            f"The unpacked kernel {kernel_id} cannot be read: {error}. Start the run "
            "again; it is fetched anew."
        ) from error
    return Unpacked(
        ir, weights, sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    )
