"""The snapshot writer: the training thread pays for one copy, all else happens behind it, one
snapshot at a time.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint.snapshot import Snapshot, Stored
from esper.checkpoint.tensors import Tensors
from esper.clock import Clock
from esper.errors import BackpressureError, EsperError


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that is durable, or why it is not: `label` is what the caller gave, `digest` that
    of its function, times in microseconds.
    """

    label: Any
    digest: str
    stored: Stored | None
    error: EsperError | None
    stall_us: int
    duration_us: int


class SnapshotWriter:
    """Writes snapshots to `tensors` from a thread of its own, which ends with it.

    The copies' memory is used again for the next snapshot.
    """

    def __init__(self, tensors: Tensors, clock: Clock) -> None:
        self._tensors = tensors
        self._clock = clock
        self._copies: dict[str, Tensor] = {}
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._under_way: Future[Taken] | None = None
        self._writing = False

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written, or one that is written has not been collected."""
        return self._under_way is not None

    def begin(
        self,
        tensors: Mapping[str, Tensor],
        notes: Mapping[str, Any],
        label: Any,
        *,
        digest: Callable[[Mapping[str, Tensor]], str],
    ) -> None:
        """Copy the tensors and go on writing behind the caller, `digest` of the copies too.

        Raises:
            BackpressureError: `busy`; collect the last one first.
        """
        if self.busy:
            raise BackpressureError(
                "A snapshot is being written, or was not collected yet; collect it before "
                "the next one."
            )
        begun = self._clock.monotonic()
        # Into the memory of the last ones: new pages cost more than the copy.
        self._copies = copies = _copied(tensors, self._copies)
        stall_us = round((self._clock.monotonic() - begun) * 1e6)
        taken: Future[Taken] = Future()
        self._under_way = taken
        if (
            not self._writing
        ):  # at the first one: to begin a thread costs a tenth of what copying 10 MB does
            threading.Thread(
                target=_carry_out, args=(self._jobs,), name="snapshots", daemon=True
            ).start()
            # The thread knows only the queue, so a writer that is dropped can be collected and ends
            # it.
            weakref.finalize(self, self._jobs.put, None)
            self._writing = True
        snapshot = Snapshot(copies, notes)
        self._jobs.put(
            lambda: taken.set_result(self._written(snapshot, label, digest, begun, stall_us))
        )

    def collect(self, *, wait: bool = False) -> Taken | None:
        """The snapshot that has become durable since the last call, or failed.

        With `wait`, the one under way.
        """
        if self._under_way is None or not (wait or self._under_way.done()):
            return None
        taken = self._under_way.result()
        self._under_way = None
        return taken

    def wait(self) -> None:
        """Until none is under way any more; it is still to be collected."""
        if self._under_way is not None:
            self._under_way.result()

    def _written(
        self,
        snapshot: Snapshot,
        label: Any,
        digest: Callable[[Mapping[str, Tensor]], str],
        begun: float,
        stall_us: int,
    ) -> Taken:
        stored, error, digested = None, None, ""
        try:
            digested = digest(snapshot.tensors)
            stored = self._tensors.write(snapshot)
        except EsperError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  # given to the caller: training goes on without this snapshot
            error = EsperError(f"{type(raised).__name__}: {raised}".rstrip(".") + ".")
        return Taken(
            label, digested, stored, error, stall_us, round((self._clock.monotonic() - begun) * 1e6)
        )


def _carry_out(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """The thread's life: it holds nothing between two jobs."""
    while (job := jobs.get()) is not None:
        job()
        # A snapshot would stay in memory until the next one comes.
        del job


@torch.no_grad()
def _copied(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host, into the memory of earlier ones where that fits.

    From a GPU into pinned memory, all under way at once.
    """
    copies, waits = {}, False
    for name, tensor in tensors.items():
        room = before.get(name)
        if room is None or room.shape != tensor.shape or room.dtype != tensor.dtype:
            room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = room.copy_(tensor, non_blocking=True)
        waits = waits or tensor.is_cuda
    if waits:
        # Once for all copies, not for each: they run side by side until here.
        torch.cuda.synchronize()
    return copies
