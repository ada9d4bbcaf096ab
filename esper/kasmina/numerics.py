"""How forward passes run: device, precision and memory format, the same for live, shadow and
validation passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from esper.errors import UsageError

CPU = torch.device("cpu")
PrecisionName = Literal["float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Numerics:
    """`precision` other than float32 means autocast: parameters stay in float32.

    `channels_last` is a memory format of images.
    """

    precision: PrecisionName = "float32"
    channels_last: bool = False
    device: torch.device = CPU

    @property
    def scales(self) -> bool:
        """Whether losses are scaled so that small gradients do not vanish."""
        return self.precision == "float16"

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "float32":
            # not a disabled autocast: inside a caller's own that would change the precision back
            return nullcontext()
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16 if self.precision == "bfloat16" else torch.float16,
        )

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in the memory format, and return it."""
        module.to(self.device)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module

    def inputs(self, inputs: Tensor) -> Tensor:
        """Inputs [B, ...] on the device, in the memory format.

        The same tensor when it is there already.
        """
        # overlaps with compute where the memory is pinned; else torch itself waits for the copy
        inputs = inputs.to(self.device, non_blocking=True)
        return (
            inputs.contiguous(memory_format=torch.channels_last)
            if self.channels_last and inputs.dim() == 4
            else inputs
        )


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `change` of each tensor in it: in tuples, lists and mappings, such as the
    outputs of a Hugging Face model. Anything else stays as it is, and so does all of it where no
    tensor is another afterwards.

    A mapping that is not made of keywords comes back as a dict.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        parts = {key: each_tensor(change, part) for key, part in value.items()}
        if all(part is value[key] for key, part in parts.items()):
            return value
        try:
            return type(value)(**parts)
        except TypeError:
            return parts
    if isinstance(value, tuple | list):
        pieces = [each_tensor(change, part) for part in value]
        if all(one is other for one, other in zip(pieces, value, strict=True)):
            return value
        # a named tuple takes its parts one by one
        return type(value)(*pieces) if hasattr(value, "_fields") else type(value)(pieces)
    return value


def full(tensor: Tensor) -> Tensor:
    """A floating-point tensor in float32; another as it is."""
    return tensor.float() if tensor.is_floating_point() else tensor


def device_of(name: DeviceName) -> torch.device:
    """The device that a recipe names; `auto` takes a GPU where there is one.

    Raises:
        UsageError: it names a GPU and there is none.
    """
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise UsageError(
            'run.device = "cuda", but torch finds no CUDA device here; set run.device=auto or cpu.'
        )
    return (
        torch.device("cuda", torch.cuda.current_device())
        if present and name != "cpu"
        else torch.device("cpu")
    )
