"""Encoder layers that torch may run as one operation in evaluation, past the forward of their
linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from esper.kasmina.seeded.layers import SeededLayer

_OWNERS: Final = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
_NUMBER: Final = -1  # torch numbers hooks from 0


class FastPaths:
    """The nn.TransformerEncoder(Layer)s of a model: their fast path is off where the linear layers
    hold kernels, so that these run, and as it was elsewhere.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._layers = [
            (part, part.activation_relu_or_gelu)
            for part in parts
            if isinstance(part, nn.TransformerEncoderLayer)
        ]
        self._encoders = [
            (part, part.use_nested_tensor)
            for part in parts
            if isinstance(part, nn.TransformerEncoder)
        ]

    def settle(self) -> None:
        """Switch them off and on by the kernels that are there now."""
        busy = set()
        for layer, activation in self._layers:
            grown = _grown(layer)
            # the attribute is read for this alone; a harvested copy has it too
            layer.activation_relu_or_gelu = 0 if grown else activation
            if grown:
                busy.add(id(layer))
        for encoder, nested in self._encoders:
            # padded positions as a nested tensor have no chunks
            encoder.use_nested_tensor = nested and not any(
                id(layer) in busy for layer in encoder.layers
            )


def follow_loads(module: nn.Module) -> None:
    """From now on, kernels that `load_state_dict` brings into an encoder layer run there."""
    for part in module.modules():
        if isinstance(part, _OWNERS):
            part._load_state_dict_post_hooks[_NUMBER] = _settle  # noqa: SLF001  # torch's own gives no number to find it by


def follow_no_loads(module: nn.Module) -> None:
    """Take that back."""
    for part in module.modules():
        part._load_state_dict_post_hooks.pop(_NUMBER, None)  # noqa: SLF001  # as above


def _settle(owner: nn.Module, incompatible: object) -> None:
    del incompatible
    FastPaths(owner).settle()


def _grown(layer: nn.TransformerEncoderLayer) -> bool:
    return any(
        isinstance(part, SeededLayer) and part.seeds.busy for part in (layer.linear1, layer.linear2)
    )


@contextmanager
def slow_path() -> Iterator[None]:
    """Within: torch takes no fast path."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
