"""The whole state of a run at a step as one safetensors file: every tensor by name, and what it is of as metadata."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from esper.checkpoint import Snapshot
from esper.errors import StorageFullError, UsageError
from esper.tolaria.addresses import Address
from esper.tolaria.evaluation import tensors_digest


@dataclass(frozen=True, slots=True)
class StateDigests:
    """`parameters` is the digest that the journal has at the end of epochs and of snapshots, `state` is of every tensor and note."""

    parameters: str
    state: str


def digests_of(snapshot: Snapshot) -> StateDigests:
    """The digests of a state."""
    model = {name.removeprefix("model/"): tensor for name, tensor in snapshot.tensors.items() if name.startswith("model/")}
    whole = hashlib.sha256(tensors_digest(snapshot.tensors).encode())
    whole.update(json.dumps(snapshot.notes, sort_keys=True, separators=(",", ":")).encode())
    return StateDigests(tensors_digest(model), whole.hexdigest())


def save_state_file(path: Path, snapshot: Snapshot, *, run_id: str, address: Address, versions: dict[str, Any]) -> None:
    """Write a state to `path`, atomically. Metadata: run, timeline, step, sequence, digests, versions, and the notes of the snapshot.

    Raises:
        UsageError: the file exists, or its folder cannot be written.
        StorageFullError: there is no room.
    """
    if path.exists():
        raise UsageError(f"{path} exists already; name another file with --out.")
    meta = {"run_id": run_id, **asdict(address), "digests": asdict(digests_of(snapshot)), "versions": versions, "notes": snapshot.notes}
    content = save({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, {"esper": json.dumps(meta, sort_keys=True)})
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        kind = StorageFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(f"The state cannot be written to {path}: {error.strerror}.") from error
