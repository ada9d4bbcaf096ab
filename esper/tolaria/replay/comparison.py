"""Whether two states of a run are the same, bit for bit, and what differs if not."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from esper.checkpoint import Snapshot
from esper.tolaria.session.cursor import Cursor


def differing(one: Snapshot, other: Snapshot) -> list[str]:
    """Names of the tensors that differ in type, shape or any bit, or that only one has, then of the
    notes that do; sorted.
    """
    tensors = [
        name
        for name in sorted(one.tensors.keys() | other.tensors.keys())
        if name not in one.tensors
        or name not in other.tensors
        or not identical(one.tensors[name], other.tensors[name])
    ]
    notes = [
        name
        for name in sorted(one.notes.keys() | other.notes.keys())
        if _text(one, name) != _text(other, name)
    ]
    return [*tensors, *(f"notes/{name}" for name in notes)]


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits: NaN equals itself, and 0.0 differs
    from -0.0.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)
    )
    return torch.equal(first, second)


def _text(snapshot: Snapshot, name: str) -> str:
    note = snapshot.notes.get(name)
    if name == "cursor" and note is not None:
        # as it is written now: a snapshot of before says the same in other keys
        cursor = Cursor()
        cursor.load_state_dict(note)
        note = cursor.state_dict()
    return json.dumps(note, sort_keys=True)
