"""The snapshots of one run: when they are due, which are durable, and which one a rollback goes back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from esper.checkpoint import SnapshotWriter, Taken
from esper.checkpoint.retention import line_after
from esper.clock import Clock
from esper.errors import EsperError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken
from esper.lifecycle import RunState
from esper.lifecycle.commands import RecordCheckpoint, Source
from esper.tolaria.digests import tensors_digest
from esper.tolaria.recipe import CheckpointsSection


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot under way is of. `step` counts optimizer steps completed: the state knows only that of its last event."""

    state: RunState
    step: int
    reason: str
    source: Source


@dataclass(slots=True)
class Checkpoints:
    """`taken` are the durable snapshots of the present line of the run, the latest last. `failed` is why the last one was not written."""

    writer: SnapshotWriter
    settings: CheckpointsSection
    clock: Clock
    taken: list[CheckpointTaken] = field(default_factory=list)
    failed: EsperError | None = None
    last: float = field(init=False)

    def __post_init__(self) -> None:
        """Count the schedule from now on."""
        self.last = self.clock.monotonic()

    def heard(self, event: JournalEvent) -> None:
        """Take note of the journal: a snapshot, or a rollback that leaves later ones behind."""
        self.taken = line_after(self.taken, event)

    def due(self, epoch: int) -> bool:
        """Whether a snapshot is to be taken at the beginning of `epoch`, or because the last one is long ago; none while one is under way."""
        if self.writer.busy:
            return False
        every = self.settings.every_epochs
        return (every > 0 and epoch % every == 0) or self.overdue()

    def due_before(self, step: int) -> bool:
        """Whether a snapshot is to be taken before step number `step`, wherever in an epoch that is; none while one is under way."""
        if self.writer.busy:
            return False
        every = self.settings.every_steps
        return (every > 0 and step > 0 and step % every == 0) or self.overdue()

    def overdue(self) -> bool:
        """Whether the last snapshot is `every_minutes` ago."""
        return not self.writer.busy and self.clock.monotonic() - self.last >= self.settings.every_minutes * 60

    def begin(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any], moment: Moment) -> None:
        """Take a snapshot; the caller goes on once it is copied."""
        self.last = self.clock.monotonic()
        self.writer.begin(tensors, notes, moment, digest=_model_digest)

    def collect(self, *, wait: bool = False) -> RecordCheckpoint | None:
        """What the journal has to say of a snapshot that has become durable since the last call."""
        found = self.writer.collect(wait=wait)
        if found is None or found.stored is None:
            self.failed = found.error if found else self.failed
            return None
        self.failed = None
        return self._record(found)

    def _record(self, found: Taken) -> RecordCheckpoint:
        moment: Moment = found.label
        state, stored = moment.state, found.stored
        assert stored is not None  # noqa: S101  # the caller looked
        return RecordCheckpoint(
            snapshot_id=snapshot_id(moment),
            address=stored.address,
            sha256=stored.sha256,
            parent=self.taken[-1].snapshot_id if self.taken else "",
            reason=moment.reason,
            at_timeline=state.timeline,
            at_sequence=state.sequence,
            at_epoch=state.epoch,
            at_step=moment.step,
            tensors=stored.tensors,
            size_bytes=stored.size_bytes,
            stored_bytes=stored.stored_bytes,
            stall_us=found.stall_us,
            duration_us=found.duration_us,
            parameters_digest=found.digest,
            kind="INCREMENTAL" if self.taken else "FULL",
            source=moment.source,
        )


def _model_digest(tensors: Mapping[str, Tensor]) -> str:
    return tensors_digest({name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")})


def snapshot_id(moment: Moment) -> str:
    """The name of a snapshot in its run: the timeline and the step that it holds, and the number of events before it."""
    return f"t{moment.state.timeline}-s{moment.step}-n{moment.state.sequence}"
