"""Averages of the weights of a model that grows: EMA (Polyak and Juditsky 1992), SWA (Izmailov et
al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from esper.errors import UsageError
from esper.kasmina.seeded.fast_path import FastPaths
from esper.kasmina.seeded.layers import SeededLayer, clear, fill
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.seeded.structure import KEY, read_note


class AveragedModel(swa_utils.AveragedModel):
    """torch's AveragedModel for a model with seeds: the average has the kernels that the model has.

    One that was grafted begins its average with the weights that it has at the next update; one
    that was given up leaves the average. Blend weights are no parameters: they are the model's.
    Call `update_parameters(model)` after each step of the own optimizer, and give it to
    `growth.register` for snapshots.

        ema = esper.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    Args: as torch's (`torch.optim.swa_utils.AveragedModel`).
    """

    module: nn.Module

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | int | str | None = None,
        avg_fn: Callable[[Tensor, Tensor, Tensor | int], Tensor] | None = None,
        multi_avg_fn: Callable[[Any, Any, Tensor | int], None] | None = None,
        use_buffers: bool = False,  # noqa: FBT001, FBT002  # torch's own signature
    ) -> None:
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)  # type: ignore[arg-type]  # torch's annotation leaves a name out
        self._fast_paths = FastPaths(self.module)

    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights that `model` has now into the average.

        Raises:
            UsageError: it is not the model that the average was made of.
        """
        self._follow(model)
        super().update_parameters(model)

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002  # torch's own signature
        assign: bool = False,  # noqa: FBT001, FBT002  # the same
    ) -> Any:
        """As torch's; kernels that the state has not are given up, those that it has are built."""
        for name, layer in _seeded(self.module):
            key = f"module.{name}.{KEY}" if name else f"module.{KEY}"
            noted = read_note(state_dict[key], key).kernels if key in state_dict else {}
            for index, slot in enumerate(layer.seeds.slots):
                wanted = noted.get(index)
                if slot is not None and (wanted is None or wanted.kernel_id != slot.kernel_id):
                    clear(layer, index)
        done = super().load_state_dict(state_dict, strict, assign)
        self._fast_paths.settle()
        return done

    def _follow(self, model: nn.Module) -> None:
        """Hold the kernels that `model` holds."""
        own, changed = dict(_seeded(self.module)), False
        layers = dict(_seeded(model))
        if own.keys() != layers.keys():
            raise UsageError(
                "update_parameters was given another model than the average was made of: the "
                f"seeded layers are {', '.join(layers) or 'none'} there and "
                f"{', '.join(own) or 'none'} here."
            )
        for name, layer in layers.items():
            mine = own[name]
            for index, slot in enumerate(layer.seeds.slots):
                held = mine.seeds.slots[index]
                if held is not None and (slot is None or slot.kernel_id != held.kernel_id):
                    clear(mine, index)
                    held, changed = None, True
                if slot is None:
                    continue
                if held is None:
                    held, changed = _copied(slot, mine), True
                    fill(mine, index, held)
                held.live, held.fossilised = slot.live, slot.fossilised
                held.alpha_target = slot.alpha_target
                held.alpha.copy_(slot.alpha)
            # torch averages by position, and a loaded average has its kernels in the order of seeds
            theirs, ours = layer._modules, mine._modules  # noqa: SLF001  # torch has no other way to order them
            if changed or [*theirs] != [*ours]:
                for child in theirs:
                    ours[child] = ours.pop(child)
        if changed:
            self._fast_paths.settle()


def _seeded(module: nn.Module) -> Iterator[tuple[str, SeededLayer]]:
    return ((name, one) for name, one in module.named_modules() if isinstance(one, SeededLayer))


def _copied(slot: Slot, layer: SeededLayer) -> Slot:
    """A kernel like that of a slot, beside the layer's weights."""
    device, made = next(layer.parameters()).device, copy.deepcopy(slot)
    made.kernel.to(device)
    made.alpha = made.alpha.to(device)
    return made
