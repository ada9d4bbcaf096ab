"""What a snapshot of a run holds, and how it comes back bit for bit.

Tensors: model with its kernels, optimizer of the host and of each kernel, torch's random streams.
Notes: folded state, cursor in the epoch, blueprints of the kernels, evidence, health, figures,
Python's and numpy's random streams.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from esper.checkpoint import Snapshot
from esper.errors import CorruptError
from esper.karn.ir import parse
from esper.kasmina import GrowingModel, Place, Slot
from esper.kasmina.seeded.health import Health
from esper.kasmina.seeded.structure import state_tensors, unfilled
from esper.kernels.build import KernelModule
from esper.lifecycle import RunState, from_canonical

Note = dict[str, Any]
"""A JSON object."""


def address(place: Place) -> str:
    """A seed's address in the names of tensors and notes."""
    return f"{place[0]}:{place[1]}"


def place_of(address: str) -> Place:
    """The seed that an address names."""
    # from the right: a layer's name may have a colon in it
    layer, _, seed = address.rpartition(":")
    return layer, int(seed)


KINDS: Final = {
    "model": "parameters and buffers of host and kernels",
    "host": "the host's optimizer",
    "kernels": "the kernels' optimizers",
    "random": "torch's random streams",
    "registered": "what a user's own loop has registered",
}
"""The kinds of a run's tensors. The kind of a tensor is the first word of its name."""


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run's snapshot by what it is made of. All but `tensors` is JSON.

    Attributes:
        tensors: By name; `KINDS` has what the first word says.
        state: The folded state, canonical.
        cursor: Where the run stands in its epoch, and what was measured last.
        kernels: Blueprint, kernel id and counters of each kernel, by the address of its seed.
        health: Running health figures, by the address of the seed.
        statistics: What was measured at the last sampled step, by the address of the seed.
        random: Python's and numpy's global random streams.
        stepper: The loss scaler, and what the host's optimizer holds that is no tensor.
        registered: What a user's own loop has registered, by name; snapshots of other runs have
            none.
    """

    tensors: Mapping[str, Tensor]
    state: str
    cursor: Note
    kernels: Mapping[str, Note]
    health: Mapping[str, Note]
    statistics: Mapping[str, Note]
    random: Note
    stepper: Note
    registered: Note = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> RunSnapshot:
        """A stored snapshot, taken apart.

        Raises:
            CorruptError: it lacks something that every snapshot of a run has.
        """
        notes = [one for one in fields(cls) if one.name != "tensors"]
        expected = [one.name for one in notes if one.default_factory is MISSING]
        if lacking := [name for name in expected if name not in snapshot.notes]:
            raise CorruptError(
                f"The snapshot has no {', '.join(lacking)}: it is not one that a run has taken."
            )
        held = [one.name for one in notes if one.name in snapshot.notes]
        return cls(snapshot.tensors, **{name: snapshot.notes[name] for name in held})

    @property
    def packed(self) -> Snapshot:
        """As it is stored."""
        notes = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            # an empty note is left out: snapshots are the same bytes as before there was one
            if one.name != "tensors" and (one.default_factory is MISSING or getattr(self, one.name))
        }
        return Snapshot(self.tensors, notes)

    @property
    def folded(self) -> RunState:
        """The state that it was taken in."""
        return from_canonical(self.state)


def model_tensors(
    growing: GrowingModel, host_optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Every tensor of a run's state by name. They are the living ones, not copies."""
    tensors = {f"model/{name}": tensor for name, tensor in state_tensors(growing.module).items()}
    tensors |= _optimizer_tensors("host", host_optimizer)
    for place, grown in growing.kernels.items():
        tensors |= _optimizer_tensors(f"kernels/{address(place)}", grown.optimizer)
    tensors["random/torch"] = torch.get_rng_state()
    # not `is_available`: asking for the state would initialise a GPU that the run does not use
    if torch.cuda.is_initialized():
        tensors |= {
            f"random/cuda{number}": torch.cuda.get_rng_state(number)
            for number in range(torch.cuda.device_count())
        }
    return tensors


def kernel_notes(growing: GrowingModel) -> dict[str, Note]:
    """What each kernel needs beside its tensors."""
    return {
        address(place): {
            "kernel_id": grown.slot.kernel_id,
            # the blueprint itself, not its id alone: the store may have lost the kernel by then
            "ir": _kernel_module(grown.slot).ir.json,
            "counters": grown.state_dict(),
        }
        for place, grown in growing.kernels.items()
    }


def random_notes() -> Note:
    """Python's and numpy's global random streams."""
    # `gauss` is a normal draw held back for the next call: without it that call would differ
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # the global stream, which a user's model may draw from
    return {
        "python": [version, list(words), gauss],
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }


def restore_random(notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put every random stream where the snapshot has it."""
    version, words, gauss = notes["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = notes["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002  # as above
    torch.set_rng_state(tensors["random/torch"].clone())
    for number in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        # a snapshot from a machine with fewer GPUs leaves the other streams alone
        if (state := tensors.get(f"random/cuda{number}")) is not None:
            torch.cuda.set_rng_state(state.clone(), number)


def restore_model(
    growing: GrowingModel,
    host_optimizer: torch.optim.Optimizer,
    snapshot: Snapshot,
    *,
    state: RunState,
    step: int,
) -> None:
    """Make model, kernels and optimizers what the snapshot holds: values are copied into allocated
    storage.

    Raises:
        CorruptError: the snapshot is of another model.
    """
    # empty slots first: the snapshot may have other kernels in the same places
    for place in list(growing.kernels):
        growing.release(place)
    for name, note in snapshot.notes["kernels"].items():
        place = place_of(name)
        # unfilled: initialising weights that are overwritten below would draw random numbers
        growing.graft(place, unfilled(parse(note["ir"]), note["kernel_id"]))
        growing.kernels[place].load_state_dict(note["counters"])
    living = {f"model/{name}": tensor for name, tensor in state_tensors(growing.module).items()}
    # compared before the first copy: nothing may train on half a restore
    saved = {name for name in snapshot.tensors if name.startswith("model/")}
    unequal = sorted(saved ^ set(living)) or [
        name for name in living if snapshot.tensors[name].shape != living[name].shape
    ]
    if unequal:
        raise CorruptError(
            f"The snapshot is of another model: {unequal[0].removeprefix('model/')} is not the "
            "same in both; resume with the code that the run began with."
        )
    with torch.no_grad():
        for name, tensor in living.items():
            # into the storage that is there: the optimizers hold these very tensors
            tensor.copy_(snapshot.tensors[name])
    _restore_optimizer("host", host_optimizer, snapshot.tensors)
    for place, grown in growing.kernels.items():
        _restore_optimizer(f"kernels/{address(place)}", grown.optimizer, snapshot.tensors)
    # last: weights of blending come from the folded state, not from tensors
    growing.follow(state, step)


def health_notes(growing: GrowingModel) -> dict[str, Note]:
    """Running health figures of every seed."""
    return {address(place): asdict(health) for place, health in growing.health.items()}


def restore_health(growing: GrowingModel, notes: Mapping[str, Note]) -> None:
    """Take back what `health_notes` gave."""
    for place in growing.places():
        growing.health[place] = Health(**notes[address(place)])


def _kernel_module(slot: Slot) -> KernelModule:
    if not isinstance(slot.kernel, KernelModule):
        raise CorruptError(
            f"The kernel {slot.kernel_id} has no blueprint, so it cannot be part of a snapshot."
        )
    return slot.kernel


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{prefix}/{number}/{key}": value
        # by number: a kernel's optimizer has no names, and the recipe fixes the order of the groups
        for number, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def _restore_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    # moments of later steps must not survive where the snapshot has none
    optimizer.state.clear()
    for number, parameter in enumerate(_parameters(optimizer)):
        beginning = f"{prefix}/{number}/"
        for name in (name for name in tensors if name.startswith(beginning)):
            saved, key = tensors[name], name.removeprefix(beginning)
            # of a parameter's shape and its memory format, too: other strides round otherwise
            if key != "step" and saved.shape == parameter.shape:
                value = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False)
            else:  # the count of steps stays on the host
                device = "cpu" if key == "step" else parameter.device
                value = torch.empty(saved.shape, dtype=saved.dtype, device=device)
            optimizer.state[parameter][key] = value.copy_(saved)
