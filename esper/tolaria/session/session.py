"""What surrounds the steps of a run: its journal, what comes from outside, the ends of epochs, the
dialogue with Tamiyo, and snapshots.

Everything takes effect between two steps and nowhere else. While a resumed run re-executes its
record, what comes from outside is taken from there; once the record is used up, from the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from esper.checkpoint import Snapshot
from esper.errors import EsperError
from esper.events import JournalEvent
from esper.events.records import RunForked, SeedTransitioned
from esper.kasmina.growth import Place
from esper.lifecycle import RunState
from esper.lifecycle.commands import Fork, Pause, ReportFailure, RunCommand
from esper.tolaria.exchange import packet as packets
from esper.tolaria.session.boundary import EpochBoundary
from esper.tolaria.session.composition import Interrupted, Parts, Standing
from esper.tolaria.session.cursor import Cursor
from esper.tolaria.session.dialogue import Dialogue
from esper.tolaria.session.growth_report import growth
from esper.tolaria.session.mailbox import Mailbox
from esper.tolaria.session.recording import Recorder
from esper.tolaria.session.snapshotting import Snapshotting
from esper.tolaria.step.stepping import StepFigures

NAP_S = 0.05  # while paused

Hook = Callable[["Session"], None]
"""Looks on, or takes part, before each step, and again and again while a run is paused."""


class Session:
    """One run at its trainer, in the order in which its loop calls: between steps, after a step, at
    the end of an epoch.
    """

    def __init__(self, parts: Parts, total_steps: int, hook: Hook | None = None) -> None:
        self.parts = parts
        self.standing = Standing(total_steps)
        self.recorder = Recorder(parts, self.standing)
        self.snapshots = Snapshotting(self.recorder)
        self.mailbox = Mailbox(self.recorder, self.snapshots)
        self.dialogue = Dialogue(self.mailbox)
        self.boundary = EpochBoundary(self.recorder)
        self._hooks: list[Hook] = [hook] if hook is not None else []

    @property
    def state(self) -> RunState:
        """The folded state."""
        return self.parts.journal.state

    @property
    def cursor(self) -> Cursor:
        """Where it stands, and what was measured last."""
        return self.standing.cursor

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self.standing.cursor.step

    @property
    def total_steps(self) -> int:
        """Optimizer steps that the schedule foresees."""
        return self.standing.total_steps

    @property
    def paths(self) -> dict[Place, list[SeedTransitioned]]:
        """The moves of each seed."""
        return self.recorder.paths

    @property
    def forked(self) -> RunForked | None:
        """Where it began, if it is a fork."""
        return self.recorder.forked

    @contextmanager
    def hooked(self, hook: Hook) -> Iterator[None]:
        """Call `hook` before each step and while the run is paused, after those that were there."""
        self._hooks.append(hook)
        try:
            yield
        finally:
            self._hooks.remove(hook)

    # -- its beginning
    # -------------------------------------------------------------------------------

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        """Write a command's events, and let the tensors follow; see `Recorder.do`."""
        return self.recorder.do(command)

    def begin_at(
        self, events: Sequence[JournalEvent], snapshot: Snapshot | None, state: RunState
    ) -> None:
        """Stand where a run stood after `events`, with the tensors of `snapshot`, if its state is
        not that before the first step.
        """
        self.recorder.remember(events)
        if snapshot is not None:
            self.snapshots.restore(snapshot, state)

    def fork(self, command: Fork, snapshot: Snapshot) -> None:
        """Begin the journal of a fork, and take over its parent's tensors."""
        self.recorder.write(command)
        self.snapshots.restore(snapshot, self.state)

    def open_fork(self) -> None:
        """Where a fork begins: keep a snapshot of its own to roll back to, and ask Tamiyo for what
        the parent's state has no answer to.
        """
        # a fork that is resumed has more events, and asks nothing twice
        if self.forked is None or self.state.sequence != self.forked.sequence + 1:
            return
        if self.parts.stepper and not self.parts.journal.replaying:
            self.snapshots.begin("forked")
        if self.step and self.forked.parent_packet < self.state.epoch:
            self.consult()

    def open_dialogue(self) -> None:
        """Before the first step: wait for Tamiyo's first answer, and for kernels.

        Raises Interrupted.
        """
        self.dialogue.open()
        self._leave_if_stopped()

    def ask_again(self) -> None:
        """Before a resumed run's first step, at the beginning of an epoch, in lockstep: ask again
        what Tamiyo thinks of the epoch before.

        The life before may have been ended while it waited for that answer, or for the kernels that
        it named. Tamiyo answers a packet twice alike, and what has been applied is not applied
        again.
        """
        # the end of the life before and the beginning of this one are on record, after the snapshot
        self.recorder.catch_up()
        if (
            self.parts.consultation.lockstep
            and self.state.incarnation
            and self.step
            and not self.cursor.sums.batches
        ):
            self.consult()

    # -- between steps
    # -------------------------------------------------------------------------------

    def between_steps(self) -> None:
        """Apply what has come in: commands, loaded kernels, snapshots, pause, interruption.

        Raises:
            Arrived: the goal is reached.
            Interrupted: a person wants the run to end.
        """
        parts = self.parts
        while True:
            # first: a trainer that has lost the writer lease must not act on its mail
            parts.require_pen()
            self._look_on()
            self.recorder.catch_up()
            # after `catch_up`: the state at the goal has what came from outside at that step
            if self.step != self.standing.goal:
                break
            self.standing.arrive()
        if parts.journal.replaying:
            self.snapshots.schedule("schedule", due=parts.checkpoints.at_step(self.step))
        else:
            if self.standing.unstable:
                self.standing.unstable = False
                self._go_back()
            # commands before kernels: a seed that was just culled gets none
            self.mailbox.empty()
            self.mailbox.place_loaded()
            # last: a snapshot holds what this boundary has decided
            self.snapshots.attend()
            self._stand_still()
        self._leave_if_stopped()

    def _stand_still(self) -> None:
        """While the run is paused."""
        if self.state.status == "PAUSED":
            self.parts.progress.say("Training is paused until somebody asks it to resume.")
        while self.state.status == "PAUSED" and not self.mailbox.stopping():
            self._look_on()
            self.mailbox.empty()
            self.snapshots.attend()
            self.parts.clock.sleep(NAP_S)

    def _look_on(self) -> None:
        for hook in self._hooks:
            hook(self)

    # -- after a step
    # --------------------------------------------------------------------------------

    def stepped(self, figures: StepFigures) -> None:
        """A step is done: report the kernels that failed in it, and count it.

        Raises:
            EsperError: a fossilised kernel failed again.
            RolledBack: it failed for the first time.
        """
        # before the count: a failure belongs to the step in which it happened
        self._failed(figures)
        self.cursor.step += 1
        self.cursor.sums.add(figures)
        # a step alone moves only the weights of seeds that blend
        if any(seed.stage == "BLENDING" for seed in self.state.seeds):
            self.parts.growing.follow(self.state, self.step)

    def _failed(self, figures: StepFigures) -> None:
        before = self.state.instabilities
        self.recorder.catch_up(after_step=True)
        if self.parts.journal.replaying:
            return
        for fault in (
            figures.faults
        ):  # those that the record had are not among them: their kernels did not run
            layer, seed = fault.place
            self.do(
                ReportFailure(
                    layer=layer,
                    seed=seed,
                    phase=fault.phase,
                    error=fault.error,
                    consecutive=fault.consecutive,
                )
            )
        if self.state.instabilities > before:
            self._unstable(again=before > 0)

    def _unstable(self, *, again: bool) -> None:
        if again:
            raise EsperError(
                "A fossilised kernel failed, and this run has been rolled back for such a "
                "failure before, so it stops; its journal says which "
                "kernel and why (instability_detected in the history)."
            )
        if self.standing.defers:
            # the caller's optimizer and schedulers still move in this step: what a snapshot gave
            # back now, they would move on from
            self.standing.unstable = True
            return
        self._go_back()

    def _go_back(self) -> None:
        self.parts.progress.say(
            "A fossilised kernel failed: the run goes back to its last snapshot."
        )
        self.snapshots.roll_back("", "A fossilised kernel failed.")

    # -- an epoch
    # ------------------------------------------------------------------------------------

    def checkpoint_at_epoch(self) -> None:
        """At the beginning of an epoch: take a snapshot if one is due."""
        self.snapshots.schedule("epoch", due=self.parts.checkpoints.at_epoch(self.state.epoch))

    def end_epoch(self) -> None:
        """Validate, measure the seeds, journal the epoch, and let the gates move."""
        self.boundary.end()

    def consult(self) -> None:
        """Ask Tamiyo at an epoch boundary and apply what it answers in time. Raises Interrupted."""
        self.dialogue.consult()
        self._leave_if_stopped()

    # -- the end
    # -------------------------------------------------------------------------------------

    def growth(self) -> str:
        """What grew, or why nothing did, in a sentence."""
        parts = self.parts
        offered = parts.consultation.kernels(set(parts.growing.shapes().values()), packets.PER_ARM)
        return growth(
            self.state, self.paths, asked=parts.recipe.tamiyo.enabled, offered=len(offered)
        )

    def _leave_if_stopped(self) -> None:
        if self.standing.stop:
            self.interrupted()

    def interrupted(self) -> None:
        """Leave the run so that `--resume` goes on from here.

        Raises:
            Interrupted: always.
        """
        # while the record is not used up, its next event contradicts a pause
        if not self.parts.journal.replaying:
            # the snapshot first: nothing has to be re-executed between it and the pause
            self.snapshots.take_last()
            self.do(Pause(reason="Interrupted; `esper run --resume` goes on from here."))
        raise Interrupted
