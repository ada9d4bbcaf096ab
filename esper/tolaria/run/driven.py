"""A growth in a loop that a framework owns: the framework draws batches, calls backward, steps the
optimizer and saves checkpoints; its hooks call what stands here, in this order.

The framework's checkpoint is what a run goes on from. Saving one takes a snapshot of the same
moment, and a checkpoint names its snapshot; whoever loads the checkpoint begins at that snapshot
and at no other, and re-executes what the journal has after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from esper.errors import UsageError
from esper.events.records import CheckpointTaken
from esper.lifecycle.commands import Source
from esper.tolaria.recipes.structures import plain
from esper.tolaria.record.addresses import Anchor
from esper.tolaria.record.checkpoints import Moment, snapshot_id
from esper.tolaria.record.resume import Wanted
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.session.composition import Interrupted, RolledBack

NO_SNAPSHOTS: Final = {"every_epochs": 0, "every_steps": 0, "every_minutes": 1e9}
"""The section `checkpoints` of such a run: the framework says when."""
_SAME: Final = 1e-3  # relative: a loss in bfloat16 has three digits


class OtherLossError(UsageError):
    """The framework trains on another loss than the task's."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a framework's checkpoint says of the run: its name, and the snapshot of that moment."""

    run_id: str
    snapshot: str
    step: int

    def as_json(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"run_id": self.run_id, "snapshot": self.snapshot, "step": self.step}

    @classmethod
    def of(cls, note: object, what: str) -> Mark:
        """What a checkpoint has; `what` names it.

        Raises:
            UsageError: it was saved without Esper, or at a moment that has no snapshot.
        """
        if isinstance(note, Mapping):
            run_id, snapshot, step = (note.get(key) for key in ("run_id", "snapshot", "step"))
            if isinstance(run_id, str) and isinstance(snapshot, str) and isinstance(step, int):
                return cls(run_id, snapshot, step)
        raise UsageError(
            f"{what} names no snapshot of a run: it was saved without Esper, within a step, or "
            "when no snapshot could be written. Take another checkpoint, or begin anew from its "
            "weights: esper.load(file, model), then esper.harvest and esper.germinate."
        )

    @property
    def wanted(self) -> Wanted:
        """That a run goes on from this snapshot."""
        return lambda anchor: anchor.name == self.snapshot


def at_first_step(anchor: Anchor) -> bool:
    """That a run goes on from its first step, as a loop without a checkpoint begins."""
    return anchor.at.step == 0


@dataclass(slots=True)
class Driven:
    """A growth that hooks drive.

    `framework` is its name in sentences, `batches` the number of batches of an epoch, of which the
    last step has what is left, `content` what else a run that goes on has to be given again. Where
    the loop is over `growth.batches`, it takes snapshots alone.
    """

    growth: Growth
    framework: str
    batches: int = 0
    content: Mapping[str, Any] = field(default_factory=dict)
    _moved: int = -1
    _checked: bool = False
    _pass: ExitStack = field(default_factory=ExitStack)

    def begin(self) -> None:
        """Before the first step of this process: the journal begins, or everything is put where the
        snapshot has it.

        Raises:
            UsageError: a resumed run was begun otherwise.
        """
        growth, session = self.growth, self.growth.rigged.session
        growth.hand_over({"framework": self.framework, "batches": self.batches, **self.content})
        if growth.beginning is not None:
            # again: what the framework has drawn and made since then is over
            session.snapshots.restore(growth.beginning, session.state)
            with self._in_its_loop():
                session.ask_again()
        self.after_step()

    def before_step(self) -> None:
        """Between two steps: what has come in takes effect.

        Raises:
            UsageError: the run was rolled back, and the framework's loop cannot follow.
            KeyboardInterrupt: a person wants the run to end.
        """
        session = self.growth.rigged.session
        self._end_whole_epoch()
        self.growth.expect(min(self.accumulate, self.batches - self.position()[1]))
        with self._in_its_loop():
            if session.step == 0:
                session.open_dialogue()
            session.between_steps()
        self._moved = -1

    def position(self) -> tuple[int, int]:
        """The epoch of the next batch, and its number in that."""
        self._end_whole_epoch()
        session = self.growth.rigged.session
        return session.state.epoch, session.cursor.sums.batches * self.accumulate

    @property
    def accumulate(self) -> int:
        """Batches of a step; fewer are left for the last of an epoch."""
        return self.growth.rigged.session.parts.recipe.run.accumulate

    def _end_whole_epoch(self) -> None:
        # after a checkpoint of an epoch's last step: the framework goes on with the next epoch
        if self.growth.rigged.session.cursor.sums.batches * self.accumulate >= self.batches:
            self.end_epoch()

    def open_pass(self) -> None:
        """Before the forward of a batch."""
        self._pass.enter_context(self.growth.live_pass())

    def close_pass(self) -> None:
        """After it, before backward."""
        self._pass.close()

    def took(self, batch: Any, output: Any, loss: Tensor) -> None:
        """After the backward of a batch: it is one of the step.

        Args:
            batch: inputs and targets, as the task has them.
            output: what the model gave for them.
            loss: the mean that the framework called backward of, before its share of the step.

        Raises:
            OtherLossError: the task makes another loss of the output.
        """
        growth, task = self.growth, self.growth.rigged.session.parts.task
        data = plain(batch, f"A batch of {self.framework}")
        # in the precision of the pass: in another the same output would have another loss
        with torch.no_grad(), growth.rigged.session.parts.growing.numerics.autocast():
            # the task's figures of the very output that was trained on: no second forward
            outcome = task.outcome(lambda *_, **__: output, data)
        if not self._checked:
            self._require_same(loss, outcome.loss)
        growth.took(data, loss, outcome.sums)

    def step(self) -> None:
        """After the last batch of a step, before the optimizer: kernels learn, the step is told."""
        self.growth.step()

    def after_step(self) -> None:
        """After the optimizer: until the next pass a checkpoint can be saved."""
        self._moved = self.growth.steps

    def end_epoch(self) -> None:
        """An epoch is over: validation, gates, Tamiyo's answer. Nothing is done twice."""
        session = self.growth.rigged.session
        if not session.cursor.sums.batches:
            return
        session.end_epoch()
        with self._in_its_loop():
            session.consult()

    def save(self) -> Mark | None:
        """Take a snapshot of this moment, for the checkpoint that the framework saves now.

        None within a step, or when it could not be written: who loads such a checkpoint is told.
        """
        session = self.growth.rigged.session
        parts, snapshots = session.parts, session.snapshots
        checkpoints = parts.checkpoints
        moved = self._moved == session.step and not self.growth.within_step
        if not moved or session.standing.unstable:
            return None
        if parts.journal.replaying:
            wanted = self._moment()
            # the record has the snapshot that was taken here before
            session.recorder.catch_up()
            if any(taken.snapshot_id == wanted for taken in checkpoints.taken):
                return self._mark(wanted)
        if parts.journal.replaying:
            # of this one the record does not know: its event waits until the record is used up
            checkpoints.put_by()
            snapshots.begin("framework")
            checkpoints.put_by()
            return self._mark(self._moment())
        snapshots.record(wait=True)
        if not checkpoints.taken or not self._is_now(checkpoints.taken[-1]):
            snapshots.begin("framework")
            snapshots.record(wait=True)
            if checkpoints.failed is not None:
                return None
        return self._mark(checkpoints.taken[-1].snapshot_id)

    def _is_now(self, taken: CheckpointTaken) -> bool:
        """Whether a snapshot is of this moment: only its own event has come since."""
        session = self.growth.rigged.session
        return (taken.at_timeline, taken.at_step, taken.at_sequence + 1) == (
            session.state.timeline,
            session.step,
            session.state.sequence,
        )

    def _moment(self) -> str:
        session = self.growth.rigged.session
        return snapshot_id(Moment(session.state, session.step, "", Source("")))

    def _mark(self, snapshot: str) -> Mark:
        return Mark(self.growth.run_id, snapshot, self.growth.steps)

    def _require_same(self, theirs: Tensor, ours: Tensor) -> None:
        """Refuse to train kernels on another loss than the host: looked at once, because it waits
        for the device.
        """
        trained, task = theirs.detach().float().item(), ours.detach().float().item()
        both = math.isfinite(trained) and math.isfinite(task)
        if both and abs(trained - task) > _SAME * max(1.0, abs(trained), abs(task)):
            raise OtherLossError(
                f"{self.framework} trains on a loss of {trained:.6g}, and the task "
                f"{self.growth.rigged.session.parts.task.name} makes {task:.6g} of the same "
                "output: name the task whose loss it is, or give an esper.Task of your own."
            )
        self._checked = both

    @contextmanager
    def _in_its_loop(self) -> Iterator[None]:
        """Within: what Esper's own loops follow ends the framework's."""
        growth = self.growth
        try:
            yield
        except RolledBack:
            step = growth.steps
            where = (
                f"from its checkpoint of step {step}"
                if step
                else "without a checkpoint, resume=True"
            )
            raise UsageError(
                f"Run {growth.run_id} was rolled back to step {step}, where the loop of "
                f"{self.framework} cannot go by itself: run it again {where}."
            ) from None
        except Interrupted:
            raise KeyboardInterrupt from None
