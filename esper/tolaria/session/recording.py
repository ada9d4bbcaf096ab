"""The run's journal as its loop uses it: commands become events, and what events mean beyond state
and tensors is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from esper.errors import FencedError, StorageFullError
from esper.events import JournalEvent
from esper.events.records import RunForked, SeedTransitioned
from esper.kasmina.growth import Place
from esper.lifecycle import RunState
from esper.lifecycle.commands import Pause, Resume, RunCommand
from esper.tolaria.session.composition import Parts, Standing
from esper.tolaria.session.model_file import save_model
from esper.tolaria.step.gates import Evidence

_ROOM_S = 1.0  # between two looks at a full disk


@dataclass(slots=True)
class Recorder:
    """Writes the events of commands, or takes them from the record that a resumed run re-executes.

    `paths` has the moves of each seed, `forked` where a fork began.
    """

    parts: Parts
    standing: Standing
    paths: dict[Place, list[SeedTransitioned]] = field(default_factory=dict)
    forked: RunForked | None = None

    @property
    def state(self) -> RunState:
        """The folded state."""
        return self.parts.journal.state

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        """Write a command's events, and let the tensors follow.

        When the disk is full, snapshot, stand still and go on once there is room.
        """
        # what the record has from outside at this step comes before what is decided now
        self.catch_up()
        events = self.write(command)
        if events:
            self.parts.growing.follow(self.state, self.standing.cursor.step)
        return events

    def write(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        """Write a command's events, and note them; the tensors do not follow.

        Where the disk is full, as `do`.
        """
        events = self._written(command)
        for event in events:
            self._note(event)
        return events

    def _written(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        parts, step, full = self.parts, self.standing.cursor.step, False
        while True:
            try:
                if full:
                    # only once there is room: while the disk is full, the journal cannot say so
                    parts.journal.do(Pause(reason="The disk is full."), step)
                    parts.journal.do(
                        Resume(
                            reason="There is room on the disk again.",
                            incarnation=self.state.incarnation,
                        ),
                        step,
                    )
                    full = False
                return parts.journal.do(command, step)
            except FencedError:
                parts.require_pen()  # says who has taken over
                raise
            except StorageFullError as error:
                # the model before waiting: if the process dies now, that file is all there is
                if not full:
                    saved = save_model(
                        parts.growing,
                        parts.run_dir / "paused.safetensors",
                        parts.models,
                        elsewhere=True,
                    )
                    parts.progress.say(
                        f"{error} Training stands still until there is room; a snapshot is "
                        f"in {saved.path}."
                    )
                full = True
                # a person who ends the run does not wait for room
                if self.standing.stop:
                    raise
                parts.clock.sleep(_ROOM_S)

    def catch_up(self, *, after_step: bool = False) -> None:
        """Apply what the record has from outside at this step.

        Kernels that failed in the step of this number only `after_step`.
        """
        parts, step, applied = self.parts, self.standing.cursor.step, False
        while (event := parts.journal.outside(step, after_step=after_step)) is not None:
            if isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING":
                # before the event is taken: no folded state may say TRAINING over an empty slot
                parts.grafting.again(self.state, (event.layer, event.seed), event.kernel_id)
            self._note(parts.journal.accept())
            applied = True
        # once, after all of them: tensors follow the last state, not each on the way
        if applied:
            parts.growing.follow(self.state, step)

    def remember(self, events: Sequence[JournalEvent]) -> None:
        """Take note of a resumed run's events before its beginning."""
        for event in events:
            self._history(event)

    def _note(self, event: JournalEvent) -> None:
        """What an event means for the loop, and for the kernel of its seed."""
        self._history(event)
        if not isinstance(event, SeedTransitioned):
            return
        place, evidence = (event.layer, event.seed), self.standing.cursor.evidence
        self.parts.progress.transitioned(event)
        if event.to_stage == "GERMINATED":
            # anew: the kernel before it in this slot proves nothing of this one
            evidence[place] = Evidence()
            self.parts.grafting.request(event.layer, event.kernel_id)
        elif event.to_stage == "DORMANT":
            evidence.pop(place, None)

    def _history(self, event: JournalEvent) -> None:
        self.parts.checkpoints.heard(event)
        if isinstance(event, RunForked):
            self.forked = event
        elif isinstance(event, SeedTransitioned):
            self.paths.setdefault((event.layer, event.seed), []).append(event)
