"""What a user's own loop moves beside model and optimizer: schedulers, averages of weights, scalers
of the loss, whatever has a `state_dict`. Snapshots hold it, and a resumed run gets it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from torch import Tensor
from torch.optim import swa_utils

from esper.errors import UsageError
from esper.kasmina import AveragedModel

Note = Any
"""What JSON can hold."""
_PLAIN: Final = (bool, int, str, type(None))


class Stateful(Protocol):
    """What has a state, as torch's modules, optimizers and schedulers have."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state now."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Make it that."""


def flattened(value: object, name: str) -> tuple[Note, dict[str, Tensor]]:
    """A state as JSON and tensors, which are named by their numbers within `name`.

    Raises:
        UsageError: it holds something else; the sentence says where.
    """
    tensors: dict[str, Tensor] = {}
    return _flattened(value, name, name, tensors), tensors


def _flattened(value: object, where: str, name: str, tensors: dict[str, Tensor]) -> Note:
    if isinstance(value, Tensor):
        # by number: keys may hold anything, so names made of them could be the same
        tensors[number := f"{name}/{len(tensors)}"] = value.detach()
        return {"tensor": number}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        # JSON has no infinity and no NaN
        return value if math.isfinite(value) else {"float": str(value)}

    def part(one: object, key: object) -> Note:
        return _flattened(one, f"{where}/{key}", name, tensors)

    if isinstance(value, list):
        return [part(one, number) for number, one in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [part(one, number) for number, one in enumerate(value)]}
    if isinstance(value, Mapping) and all(isinstance(key, _PLAIN) for key in value):
        # pairs, because keys of JSON are texts, and an optimizer's state has numbers for keys
        return {"dict": [[key, part(one, key)] for key, one in value.items()]}
    raise UsageError(
        f"{where} is of type {type(value).__name__}, which no snapshot can hold: let its "
        "state_dict have tensors, numbers, texts, lists and dictionaries of them."
    )


def rebuilt(note: Note, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `flattened` took apart; its tensors are copies."""
    if isinstance(note, list):
        return [rebuilt(one, tensors) for one in note]
    if not isinstance(note, dict):
        return note
    ((kind, content),) = note.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(rebuilt(one, tensors) for one in content)
    return {key: rebuilt(one, tensors) for key, one in content}


@dataclass(slots=True)
class Registered:
    """The registered parts of a run, by name.

    After a restore `waiting` has the states of those that are not registered again yet.
    """

    parts: dict[str, Stateful] = field(default_factory=dict)
    waiting: dict[str, Any] = field(default_factory=dict)

    def register(self, name: str, part: Stateful) -> None:
        """Take a part into snapshots; it gets the state that a restore left waiting for it.

        Raises:
            UsageError: the name is taken or none, the part has no state, or one that no snapshot
                can hold.
        """
        if not name.isidentifier():
            raise UsageError(f"{name!r} cannot name what is registered: take a word.")
        if name in self.parts:
            raise UsageError(f"{name} is registered already; give each part a name of its own.")
        if not callable(getattr(part, "state_dict", None)) or not callable(
            getattr(part, "load_state_dict", None)
        ):
            raise UsageError(
                f"{name} is {type(part).__name__}, which has no state_dict and load_state_dict: "
                "only what has both can be registered."
            )
        if isinstance(part, swa_utils.AveragedModel) and not isinstance(part, AveragedModel):
            raise UsageError(
                f"{name} averages parameters by their positions, and kernels add to them: take "
                "esper.AveragedModel, which has torch's arguments."
            )
        flattened(part.state_dict(), name)
        if name in self.waiting:
            part.load_state_dict(self.waiting.pop(name))
        self.parts[name] = part

    def state_dict(self) -> tuple[dict[str, Note], dict[str, Tensor]]:
        """Notes and tensors of every part; the tensors are the living ones.

        Raises UsageError as `flattened` does.
        """
        notes: dict[str, Note] = {}
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            notes[name], more = flattened(part.state_dict(), f"registered/{name}")
            tensors |= more
        return notes, tensors

    def load_state_dict(self, notes: Mapping[str, Note], tensors: Mapping[str, Tensor]) -> None:
        """Give each part its state back; that of others waits for them."""
        self.waiting = {name: rebuilt(note, tensors) for name, note in notes.items()}
        for name in self.parts.keys() & self.waiting.keys():
            self.parts[name].load_state_dict(self.waiting.pop(name))
