"""What a framework loads into a model before its loop begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint.digests import tensors_digest
from esper.errors import UsageError
from esper.kasmina.seeded.layers import SeededLayer
from esper.kasmina.seeded.structure import KEY, state_tensors
from esper.tolaria.run.driven import Mark

_KERNEL = re.compile(r"kernel_\d+\.")


class HeldBack:
    """Keeps a model from growing by what is loaded into it, until `release`: a framework makes its
    optimizer after that, and would take kernels for the host's parameters. A run that goes on has
    them from its snapshot.

    `loaded` are the names of the host's own tensors that were loaded.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.held = False
        self.loaded = set[str]()
        self._handles: list[Any] = [
            model.register_load_state_dict_pre_hook(self._drop),
            # a model that was given half of a state computes something that nobody has trained
            model.register_forward_pre_hook(self._refuse),
        ]

    def release(self, mark: Mark | None = None) -> None:
        """From now on the model takes what it is given; `mark` says from which snapshot its kernels
        come.

        Raises:
            UsageError: kernels were held back, and come from nowhere.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self.held and mark is None:
            raise UsageError(
                "The model was given the state of one that has grown, and no checkpoint names the "
                "run that it was in: esper.load it into a plain model, and germinate what "
                "esper.harvest makes of that."
            )

    def _drop(
        self, module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any
    ) -> None:
        for name, layer in module.named_modules(remove_duplicate=False):
            # one that holds kernels was grown by esper.load, and takes their weights
            if not isinstance(layer, SeededLayer) or layer.seeds.busy:
                continue
            owner = f"{prefix}{name}." if name else prefix
            for key in [key for key in state if key.startswith(owner)]:
                inside = key.removeprefix(owner)
                if inside == KEY or _KERNEL.match(inside):
                    del state[key]
                    self.held = True
        self.loaded |= {key.removeprefix(prefix) for key in state if key.startswith(prefix)}

    def _refuse(self, module: nn.Module, inputs: Any) -> None:
        del module, inputs
        if self.held:
            raise UsageError(
                "The model was given the state of one that has grown, and its kernels wait for the "
                "run to go on: use it after training has begun, or load the state into a model "
                "that is in no Trainer with Esper's callback."
            )


def host_digest(model: nn.Module, names: Iterable[str]) -> str:
    """The digest of a model's tensors of these names, as far as it has them."""
    tensors = state_tensors(model)
    return tensors_digest({name: tensors[name].detach().cpu() for name in names if name in tensors})


def require_same(model: nn.Module, names: Iterable[str], loaded: str, mark: Mark) -> None:
    """Refuse a checkpoint whose weights, of the digest `loaded`, are not those of the snapshot that
    it names, which the model has by now.

    Raises:
        UsageError: they are others.
    """
    if host_digest(model, names) != loaded:
        raise UsageError(
            f"The checkpoint has other weights than run {mark.run_id} had at step {mark.step}: a "
            "run goes on with what it has saved. Take that, or begin another run."
        )


def optimizer_within(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch that a framework has wrapped."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    wrapped: torch.optim.Optimizer = optimizer
    return wrapped


def tensors_of(batch: MutableMapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a batch that a model was called with by keyword."""
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}
