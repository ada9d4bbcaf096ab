"""Snapshots of a run: when one is begun, what is in it, and how the run comes back to one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from esper.checkpoint import Snapshot
from esper.errors import CorruptError, EsperError
from esper.kasmina.seeded.statistics import SeedStatistics
from esper.lifecycle import RunState
from esper.lifecycle.commands import RollBack, Source
from esper.tolaria.exchange.grafting import seeds_waiting
from esper.tolaria.record.checkpoints import Moment
from esper.tolaria.record.snapshot_content import (
    RunSnapshot,
    address,
    health_notes,
    kernel_notes,
    model_tensors,
    place_of,
    random_notes,
    restore_health,
    restore_model,
    restore_random,
)
from esper.tolaria.session.composition import RolledBack
from esper.tolaria.session.cursor import Cursor
from esper.tolaria.session.recording import Recorder


@dataclass(slots=True)
class Snapshotting:
    """Takes snapshots beside training and restores them.

    `requested` is the command that one is still to be taken for.
    """

    recorder: Recorder
    requested: Source = field(default_factory=lambda: Source(""))

    def schedule(self, reason: str, *, due: bool) -> None:
        """Begin a snapshot that is `due` by the recipe, or that is long overdue.

        In lockstep the one under way is waited for: to which snapshot a run can go back must not
        depend on the speed of a disk. A record that is re-executed has its own, but for those of
        which it does not know because the process died before they were durable: these are taken
        again.
        """
        parts, checkpoints, state = (
            self.recorder.parts,
            self.recorder.parts.checkpoints,
            self.recorder.state,
        )
        step = self.recorder.standing.cursor.step
        if parts.stepper is None:
            return
        if parts.journal.replaying:
            if due and parts.journal.past_snapshots and not checkpoints.known(state.timeline, step):
                # the writer holds one at a time; its event waits until the record is used up
                checkpoints.put_by()
                self.begin(reason)
            return
        if due and parts.consultation.lockstep and checkpoints.begun != (state.timeline, step):
            self.record(wait=True)
        if not checkpoints.writer.busy and (due or checkpoints.overdue()):
            self.begin(reason)

    def attend(self) -> None:
        """Between two steps: journal the snapshot that has become durable.

        Begin one that was asked for, that is due, or that is overdue.
        """
        checkpoints = self.recorder.parts.checkpoints
        if self.recorder.parts.stepper is None:
            return
        self.record(wait=False)
        # not the one under way: a request is for a state from after it
        if self.requested.command_id and not checkpoints.writer.busy:
            self.begin("requested", self.requested)
            self.requested = Source("")
        elif self.recorder.state.status == "RUNNING":
            self.schedule("schedule", due=checkpoints.at_step(self.recorder.standing.cursor.step))

    def record(self, *, wait: bool) -> None:
        """Journal the snapshots that have become durable; `wait` for the one under way."""
        checkpoints = self.recorder.parts.checkpoints
        # said once: a disk that stays full would repeat it at every snapshot
        before = checkpoints.failed
        while (record := checkpoints.collect(wait=wait)) is not None:
            self.recorder.do(record)
        if checkpoints.failed is not None and before is None:
            self.recorder.parts.progress.say(
                f"A snapshot could not be written: {checkpoints.failed} Training goes on; "
                "the next one is tried when it is due."
            )

    def begin(self, reason: str, source: Source = Source("")) -> None:  # noqa: B008  # frozen
        """Copy what lives now, and write it in the background."""
        living, step = self.living(), self.recorder.standing.cursor.step
        self.recorder.parts.checkpoints.begin(
            living.tensors, living.notes, Moment(self.recorder.state, step, reason, source)
        )

    def take_last(self) -> None:
        """Before the run is left: a snapshot of where it stands, unless there is one."""
        self.record(wait=True)
        checkpoints, step = self.recorder.parts.checkpoints, self.recorder.standing.cursor.step
        if (
            self.recorder.parts.stepper
            # at step 0 there is nothing that the seed does not give
            and step
            and (not checkpoints.taken or checkpoints.taken[-1].at_step != step)
        ):
            self.begin("interrupted")
            self.record(wait=True)

    def living(self) -> Snapshot:
        """What a snapshot taken now would hold; the tensors are the living ones, not copies."""
        parts = self.recorder.parts
        assert parts.stepper is not None  # noqa: S101  # a loop without one has no snapshots
        registered, more = parts.registered.state_dict()
        return RunSnapshot(
            tensors=model_tensors(parts.growing, parts.stepper.host_optimizer) | more,
            state=self.recorder.state.canonical(),
            cursor=self.recorder.standing.cursor.state_dict(),
            kernels=kernel_notes(parts.growing),
            health=health_notes(parts.growing),
            statistics={
                address(place): asdict(statistics)
                for place, statistics in parts.monitor.statistics.items()
            },
            random=random_notes(),
            stepper=parts.stepper.state_dict(),
            registered=registered,
        ).packed

    def restore(self, snapshot: Snapshot, state: RunState) -> None:
        """Make tensors, cursor and figures what the snapshot holds, as far as `state` still has
        them.
        """
        parts, content = self.recorder.parts, RunSnapshot.of(snapshot)
        assert parts.stepper is not None  # noqa: S101  # a loop without one has no snapshots
        cursor = Cursor()
        cursor.load_state_dict(content.cursor)
        dormant = {(seed.layer, seed.seed) for seed in state.seeds if seed.stage == "DORMANT"}
        # a rollback resets unfinished seeds: their evidence is of kernels that are gone
        cursor.evidence = {
            place: evidence for place, evidence in cursor.evidence.items() if place not in dormant
        }
        self.recorder.standing.cursor = cursor
        restore_model(
            parts.growing,
            parts.stepper.host_optimizer,
            snapshot,
            state=content.folded,
            step=cursor.step,
        )
        # a second time: kernels came back by the snapshot's state, and the present one decides
        parts.growing.follow(state, cursor.step)
        parts.stepper.load_state_dict(content.stepper)
        parts.registered.load_state_dict(content.registered, content.tensors)
        restore_health(parts.growing, content.health)
        parts.monitor.statistics = {
            place_of(name): SeedStatistics(**statistics)
            for name, statistics in content.statistics.items()
        }
        # after everything that might draw: the streams go on from exactly here
        restore_random(content.random, snapshot.tensors)
        # a load under way ended with the old process, or with the old timeline
        for seed in seeds_waiting(state):
            parts.grafting.request(seed.layer, seed.kernel_id)

    def roll_back(
        self,
        snapshot_id: str,
        reason: str,
        source: Source = Source(""),  # noqa: B008  # frozen
        *,
        at_most_epoch: int = -1,
    ) -> None:
        """Go on from an earlier snapshot, in a new timeline.

        The latest when none is named, or an earlier one where that is damaged.

        It is of at most `at_most_epoch` completed epochs, unless that is -1.

        Raises:
            RolledBack: it is done; the loop begins again at the restored cursor.
            EsperError: there is no snapshot to go back to.
        """
        parts, recorder = self.recorder.parts, self.recorder
        self.record(wait=True)
        # the snapshot under way is recorded by now: it may be the newest
        candidates = [
            candidate
            for candidate in reversed(parts.checkpoints.taken)
            if snapshot_id in ("", candidate.snapshot_id)
            and (at_most_epoch < 0 or candidate.at_epoch <= at_most_epoch)
        ]
        for candidate in candidates:
            try:
                snapshot = parts.tensors.read(candidate.address, candidate.sha256)
                folded = RunSnapshot.of(snapshot).folded
            except CorruptError as error:
                parts.progress.say(f"Snapshot {candidate.snapshot_id} cannot be used: {error}")
                continue
            # the folded state knows the step of its last event only
            restored = replace(folded, step=candidate.at_step)
            # journal before tensors: a crash in between resumes there, and restores the snapshot
            recorder.do(
                RollBack(
                    snapshot_id=candidate.snapshot_id,
                    restored=restored,
                    reason=reason,
                    source=source,
                )
            )
            self.restore(snapshot, recorder.state)
            timeline, step = recorder.state.timeline, recorder.standing.cursor.step
            parts.consultation.begin_timeline(timeline)
            parts.progress.say(
                f"Timeline {timeline} begins at step {step}, from snapshot "
                f"{candidate.snapshot_id}: {reason}"
            )
            # out of whatever the loop was in: the cursor says where it begins again
            raise RolledBack
        missing = (
            f"There is no snapshot {snapshot_id}"
            if snapshot_id and not candidates
            else "No snapshot can be used"
        )
        if not snapshot_id and not candidates and at_most_epoch >= 0:
            missing = f"There is no snapshot of epoch {at_most_epoch} or before"
        # a wrong request must not end the run; a failed kernel without a way back must
        if source.command_id:
            parts.progress.say(
                f"{missing} to roll back to; the request is ignored. `esper checkpoints` "
                "lists them."
            )
            return
        raise EsperError(f"{missing} to roll back to: {reason}")
