"""What snapshots cost: the training thread's stall beside one plain copy of the state, and the bytes of the next one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esper.bench.estimate import Estimate, exactly, median
from esper.bench.registry import Bench, figure
from esper.checkpoint import SnapshotWriter, Stored, Taken, TensorStore
from esper.checkpoint.families import Family
from esper.errors import StorageFullError
from esper.urza.local import LocalStore

_TENSORS = 26
_BYTES = 32 << 20  # of the state in all
_ROUNDS = 15


def _state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"model/{number}": torch.randn(_BYTES // _TENSORS // 4, generator=generator) for number in range(_TENSORS)}


def _tensors(folder: Path) -> TensorStore:
    return TensorStore(LocalStore(folder), Family("bench", bytes(32)))


def _stored(taken: Taken | None) -> Stored:
    if taken is None or taken.stored is None:
        raise StorageFullError(f"The snapshot was not written: {taken.error if taken else 'none was under way'}")
    return taken.stored


@figure(
    "checkpoint_stall",
    "x",
    "stall of the training thread by a snapshot, in copies of its state (32 MiB) into memory that is there",
    at_most=1.2,
)
def checkpoint_stall(bench: Bench) -> Estimate:
    """Both in turns; each snapshot is written to its end before the next, so that the copies' memory is there."""
    torch.set_num_threads(1)
    state = _state()
    copies = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    writer = SnapshotWriter(_tensors(bench.folder / "snapshots"), bench.clock)

    def copy() -> None:
        for name, tensor in state.items():
            copies[name].copy_(tensor)

    ratios = []
    for _ in range(_ROUNDS + 1):
        plain = bench.processor_seconds(copy)
        stall = bench.processor_seconds(lambda: writer.begin(state, {}, None, digest=lambda _: ""))
        writer.collect(wait=True)
        ratios.append(stall / plain)
    return median(np.array(ratios[1:]))


@figure("checkpoint_increment", "x", "bytes of a first snapshot over those of the next, with one tensor of 26 changed", at_least=10)
def checkpoint_increment(bench: Bench) -> Estimate:
    """As with a frozen host."""
    state = _state()
    writer = SnapshotWriter(_tensors(bench.folder / "increments"), bench.clock)
    stored = []
    for _ in range(2):
        writer.begin(state, {}, None, digest=lambda _: "")
        taken = writer.collect(wait=True)
        stored.append(_stored(taken).stored_bytes)
        state["model/0"] = state["model/0"] + 1
    return exactly(stored[0] / stored[1])


@figure("checkpoint_restore", "MB/s", "a snapshot of 32 MiB read, every hash verified", at_least=34)
def checkpoint_restore(bench: Bench) -> Estimate:
    """The bar is 1 GB in 30 s."""
    tensors, state = _tensors(bench.folder / "restored"), _state()
    writer = SnapshotWriter(tensors, bench.clock)
    writer.begin(state, {}, None, digest=lambda _: "")
    stored = _stored(writer.collect(wait=True))
    seconds = np.array([bench.seconds(lambda: tensors.read(stored.address, stored.sha256)) for _ in range(_ROUNDS)])
    return median(stored.size_bytes / 1e6 / seconds)
