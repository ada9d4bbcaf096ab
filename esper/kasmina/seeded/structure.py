"""What a model has grown, as data: the kernels of each layer beside its tensors, so that a file or
a `state_dict` gives the grown model back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from torch import Tensor, nn

from esper.bounded import DEFAULT, Limits, json_of
from esper.bounded.names import KERNEL_ID
from esper.errors import BuildError, CorruptError, UsageError, printable
from esper.events.records import Blend, Tap
from esper.karn.ir import BlueprintIR, parse
from esper.kasmina.seeded.slots import Slot
from esper.kernels.build import KernelModule

KEY: Final = "esper_seeds"
"""What a seeded layer with kernels has in a `state_dict` beside its tensors: its `LayerNote`, as
JSON in bytes, because whoever handles a `state_dict` expects tensors.
"""


_LARGEST: Final = 1e6  # weight of a kernel that a file may name


class KernelNote(BaseModel):
    """One kernel; the meanings of `Slot`.

    `ir` is its blueprint, empty for one that has none; `casts` is that of `KernelModule`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kernel_id: str = Field(pattern=f"^{KERNEL_ID}$")
    family: str
    ir: str
    blend: Blend
    tap: Tap
    alpha: float = Field(ge=-_LARGEST, le=_LARGEST)
    alpha_target: float = Field(ge=-_LARGEST, le=_LARGEST)
    live: bool
    fossilised: bool
    casts: bool = False

    @classmethod
    def of(cls, slot: Slot) -> KernelNote:
        """What is to be said of a slot."""
        return cls(
            kernel_id=slot.kernel_id,
            family=slot.family,
            ir=slot.kernel.ir.json if isinstance(slot.kernel, KernelModule) else "",
            blend=slot.blend,
            tap=slot.tap,
            alpha=float(slot.alpha),
            alpha_target=slot.alpha_target,
            live=slot.live,
            fossilised=slot.fossilised,
            casts=isinstance(slot.kernel, KernelModule) and slot.kernel.casts,
        )

    def settle(self, slot: Slot) -> None:
        """Give a slot with this kernel the weight and the flags."""
        slot.alpha_target, slot.live, slot.fossilised = (
            self.alpha_target,
            self.live,
            self.fossilised,
        )
        slot.alpha.fill_(self.alpha)


class LayerNote(BaseModel):
    """A seeded layer: its kind, the widths of its chunks, the kernels by the number of the seed.

    `channel_dim` and `argument` are what a plain layer needs to run the kernels: the dimension of
    its channels, and the name of its input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    kind: str
    channel_dim: Literal[-1, -2, -3]
    argument: str = Field(pattern=r"^[^\W\d]\w{0,63}$")
    chunks: tuple[PositiveInt, ...]
    kernels: Mapping[int, KernelNote]

    @model_validator(mode="after")
    def _seeds_are_there(self) -> LayerNote:
        if not all(0 <= index < len(self.chunks) for index in self.kernels):
            raise ValueError("a kernel is in no seed of the layer")
        return self

    @property
    def tensor(self) -> Tensor:
        """The JSON as bytes, uint8 [N]."""
        return torch.from_numpy(np.frombuffer(self.model_dump_json().encode(), np.uint8).copy())


def read_note(note: object, what: str, limits: Limits = DEFAULT) -> LayerNote:
    """A layer's note out of a file: as JSON values, or as the tensor of `LayerNote.tensor`.

    Raises:
        CorruptError: it is none, or larger than the limits allow; `what` names it.
    """
    if isinstance(note, Tensor):
        if note.dtype != torch.uint8 or note.dim() != 1:
            raise CorruptError(f"{what} is no JSON in bytes.")
        limits.json.require(note.numel(), f"{what} has bytes,")
        note = json_of(note.cpu().numpy().tobytes(), limits, what)
    try:
        return LayerNote.model_validate(note)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = printable(f"{where} {first['msg']}".strip())
        raise CorruptError(f"{what} is wrong: {why}.") from None


def unfilled(ir: BlueprintIR, kernel_id: str) -> Slot:
    """A slot with the module of a blueprint on the CPU, whose weights are still to be copied in."""
    # weights unset; by the meta device and `to_empty` torch would import its shape compiler (sympy,
    # 1 s)
    module = KernelModule(ir, "cpu")
    return Slot(kernel_id, ir.family, module, ir.blend, ir.tap, ir.alpha_target, ir.geometry.text)


def slot_of(note: KernelNote, what: str) -> Slot:
    """A slot with a noted kernel, its weights still to be copied in.

    Raises:
        CorruptError: the note contradicts its blueprint.
        UsageError: it has none.
    """
    if not note.ir:
        raise UsageError(
            f"{what} was not built from a blueprint: only a model that holds it already can take "
            "its weights."
        )
    try:
        slot = unfilled(parse(note.ir), note.kernel_id)
    except BuildError as error:
        raise CorruptError(f"{what} has no blueprint that can be built: {error}") from None
    if (slot.family, slot.blend, slot.tap) != (note.family, note.blend, note.tap):
        raise CorruptError(f"{what} has a blueprint of another kernel.")
    note.settle(slot)
    if isinstance(slot.kernel, KernelModule):
        slot.kernel.casts = note.casts
    return slot


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by name: its `state_dict` without what Esper notes of
    kernels.

    Raises:
        UsageError: a module of it keeps a state of its own there that is no tensor.
    """
    tensors = {
        name: value for name, value in module.state_dict().items() if name.rpartition(".")[2] != KEY
    }
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"{name} of the model is no tensor, and a run keeps tensors alone: keep that "
                "state in a buffer instead of get_extra_state."
            )
    return tensors
