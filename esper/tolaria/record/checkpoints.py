"""The snapshots of one run: when they are due, which are durable, and which one a rollback goes
back to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from esper.checkpoint import SnapshotWriter, Taken
from esper.checkpoint.digests import tensors_digest
from esper.checkpoint.retention import line_after
from esper.clock import Clock
from esper.errors import EsperError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken
from esper.lifecycle import RunState
from esper.lifecycle.commands import RecordCheckpoint, Source
from esper.tolaria.recipes.recipe import CheckpointsSection


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot under way is of.

    `step` counts optimizer steps completed: the state knows only that of its last event.
    """

    state: RunState
    step: int
    reason: str
    source: Source


@dataclass(slots=True)
class Checkpoints:
    """`taken` are the durable snapshots of the present line of the run, the latest last.

    `failed` is why the last one was not written.
    """

    writer: SnapshotWriter
    settings: CheckpointsSection
    clock: Clock
    taken: list[CheckpointTaken] = field(default_factory=list)
    failed: EsperError | None = None
    last: float = field(init=False)
    begun: tuple[int, int] = (-1, -1)
    waiting: deque[Taken] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Count the schedule from now on."""
        self.last = self.clock.monotonic()

    def heard(self, event: JournalEvent) -> None:
        """Take note of the journal: a snapshot, or a rollback that leaves later ones behind."""
        # a rollback cuts the list: going back to a later state would repeat what was left
        self.taken = line_after(self.taken, event)

    def at_epoch(self, epoch: int) -> bool:
        """Whether a snapshot falls due at the beginning of `epoch`."""
        every = self.settings.every_epochs
        return every > 0 and epoch % every == 0

    def at_step(self, step: int) -> bool:
        """Whether a snapshot falls due before step number `step`, wherever in an epoch that is."""
        every = self.settings.every_steps
        # step 0 needs no snapshot by steps: the seed alone rebuilds it
        return every > 0 and step > 0 and step % every == 0

    def overdue(self) -> bool:
        """Whether the last snapshot is `every_minutes` ago."""
        return self.clock.monotonic() - self.last >= self.settings.every_minutes * 60

    def known(self, timeline: int, step: int) -> bool:
        """Whether there is a snapshot of this place, or one has been begun."""
        return (timeline, step) in {
            # begun counts, too: its event comes later, and a second copy would be waste
            self.begun,
            *((snapshot.at_timeline, snapshot.at_step) for snapshot in self.taken),
        }

    def begin(
        self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any], moment: Moment
    ) -> None:
        """Take a snapshot; the caller goes on once it is copied."""
        # before the write, which may fail: a broken disk is tried again when due, not each step
        self.last, self.begun = self.clock.monotonic(), (moment.state.timeline, moment.step)
        self.writer.begin(tensors, notes, moment, digest=_model_digest)

    def put_by(self) -> None:
        """Wait for the snapshot under way, of which the journal hears later: it still has a record
        to be re-executed.
        """
        if (written := self.writer.collect(wait=True)) is not None:
            self.waiting.append(written)

    def collect(self, *, wait: bool = False) -> RecordCheckpoint | None:
        """What the journal has to say of a snapshot that has become durable since the last call.

        Each call gives one.
        """
        written = self.waiting.popleft() if self.waiting else self.writer.collect(wait=wait)
        if written is None or written.stored is None:
            # nothing collected is no success: the last reason stays
            self.failed = written.error if written else self.failed
            return None
        self.failed = None
        return self._record(written)

    def _record(self, written: Taken) -> RecordCheckpoint:
        # the state at the copy: by now, when the write has ended, the run stands further on
        moment: Moment = written.label
        state, stored = moment.state, written.stored
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
            stall_us=written.stall_us,
            duration_us=written.duration_us,
            parameters_digest=written.digest,
            kind="INCREMENTAL" if self.taken else "FULL",
            source=moment.source,
        )


def _model_digest(tensors: Mapping[str, Tensor]) -> str:
    return tensors_digest(
        {
            # the module's own names, so that it equals the digest in EpochEnded
            name.removeprefix("model/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("model/")
        }
    )


def snapshot_id(moment: Moment) -> str:
    """The name of a snapshot in its run: the timeline and the step that it holds, and the number of
    events before it.
    """
    # all three: a rollback comes past a step again, and a command changes the state within one
    return f"t{moment.state.timeline}-s{moment.step}-n{moment.state.sequence}"
