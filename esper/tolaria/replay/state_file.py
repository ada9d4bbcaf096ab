"""The state of a run at a step, or some kinds of its tensors, as one safetensors file: every tensor
by name, and what it is of as metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from esper.checkpoint import Snapshot
from esper.checkpoint.digests import tensors_digest
from esper.checkpoint.snapshot import kind_of
from esper.disk import write_file
from esper.errors import UnavailableError, UsageError
from esper.tolaria.record.addresses import Address


@dataclass(frozen=True, slots=True)
class StateDigests:
    """`parameters` is the digest that the journal has at the end of epochs and of snapshots,
    `state` is of every tensor and note.

    Each is empty where not all is at hand that it is of.
    """

    parameters: str
    state: str


def digests_of(snapshot: Snapshot) -> StateDigests:
    """The digests of a whole state_hash."""
    state_hash = hashlib.sha256(tensors_digest(snapshot.tensors).encode())
    # canonical: equal notes must give equal text
    state_hash.update(json.dumps(snapshot.notes, sort_keys=True, separators=(",", ":")).encode())
    return StateDigests(model_digest(snapshot), state_hash.hexdigest())


def model_digest(snapshot: Snapshot) -> str:
    """The digest of the parameters and buffers of a state, or of a part of one that has all of
    these.
    """
    model = {
        name.removeprefix("model/"): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith("model/")
    }
    return tensors_digest(model)


def part_of(snapshot: Snapshot, kinds: Collection[str]) -> Snapshot:
    """The tensors of some kinds, with all notes; every tensor where no kind is named."""
    return Snapshot(
        {
            name: tensor
            for name, tensor in snapshot.tensors.items()
            if not kinds or kind_of(name) in kinds
        },
        snapshot.notes,
    )


def save_state_file(
    path: Path,
    snapshot: Snapshot,
    *,
    run_id: str,
    address: Address,
    digests: StateDigests,
    versions: Mapping[str, Any],
) -> None:
    """Write a state, or a part of one, to `path`, atomically.

    Metadata: run, timeline, step, sequence, the kinds of its tensors, digests of the state that it
    is of, versions, and the notes of the snapshot.

    Raises:
        UsageError: the file exists, or its folder cannot be written.
        StorageFullError: there is no room.
    """
    if path.exists():
        raise UsageError(f"{path} exists already; name another file with --out.")
    kinds = sorted({kind_of(name) for name in snapshot.tensors})
    meta = {
        "run_id": run_id,
        **asdict(address),
        "kinds": kinds,
        "digests": asdict(digests),
        "versions": versions,
        "notes": snapshot.notes,
    }
    content = save(
        {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()},
        {"esper": json.dumps(meta, sort_keys=True)},
    )
    try:
        write_file(path, content)
    except UnavailableError as error:
        raise UsageError(f"The state cannot be written: {error}") from error
