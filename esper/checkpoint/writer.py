"""The snapshot writer: the training thread pays for one copy, all else happens behind it, one snapshot at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint.snapshot import Snapshot, Stored
from esper.checkpoint.tensors import TensorStore
from esper.clock import Clock
from esper.errors import BackpressureError, EsperError


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that is durable, or why it is not: `label` is what the caller gave, `digest` that of its function, times in microseconds."""

    label: Any
    digest: str
    stored: Stored | None
    error: EsperError | None
    stall_us: int
    duration_us: int


class SnapshotWriter:
    """Writes snapshots to `tensors` from a thread of its own. The copies' memory is used again for the next snapshot."""

    def __init__(self, tensors: TensorStore, clock: Clock) -> None:
        self._tensors = tensors
        self._clock = clock
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._taken: Taken | None = None

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written, or one that is written has not been collected."""
        return self._thread is not None

    def begin(
        self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any], label: Any, *, digest: Callable[[Mapping[str, Tensor]], str]
    ) -> None:
        """Copy the tensors and go on writing behind the caller, `digest` of the copies too.

        Raises:
            BackpressureError: `busy`; collect the last one first.
        """
        if self.busy:
            raise BackpressureError("A snapshot is being written, or was not collected yet; collect it before the next one.")
        begun = self._clock.monotonic()
        copies = {name: _copied(tensor, self._copies.get(name)) for name, tensor in tensors.items()}
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        self._copies = copies
        stall_us = round((self._clock.monotonic() - begun) * 1e6)
        self._taken = None
        self._thread = threading.Thread(
            target=self._write, args=(Snapshot(copies, notes), label, digest, begun, stall_us), name="snapshot", daemon=True
        )
        self._thread.start()

    def collect(self, *, wait: bool = False) -> Taken | None:
        """The snapshot that has become durable since the last call, or failed; with `wait`, the one under way."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        return self._taken

    def _write(self, snapshot: Snapshot, label: Any, digest: Callable[[Mapping[str, Tensor]], str], begun: float, stall_us: int) -> None:
        stored, error, digested = None, None, ""
        try:
            digested = digest(snapshot.tensors)
            stored = self._tensors.write(snapshot)
        except EsperError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  # given to the caller: training goes on without this snapshot
            error = EsperError(f"{type(raised).__name__}: {raised}".rstrip(".") + ".")
        self._taken = Taken(label, digested, stored, error, stall_us, round((self._clock.monotonic() - begun) * 1e6))


@torch.no_grad()
def _copied(tensor: Tensor, before: Tensor | None) -> Tensor:
    """A copy on the host, into the memory of an earlier copy where that fits; from a GPU into pinned memory, without waiting."""
    if before is None or before.shape != tensor.shape or before.dtype != tensor.dtype:
        before = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    before.copy_(tensor.detach(), non_blocking=True)
    return before
