"""A run that was killed and resumed is the run that was never killed, bit for bit.

A failing kernel spoils nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.errors import CorruptError, UsageError
from esper.events import Event, Origin
from esper.events.codec import encode
from esper.events.records import (
    AdaptationApplied,
    CheckpointRequested,
    CheckpointTaken,
    PauseRequested,
    ResumeRequested,
    RollbackRequested,
    RunResumed,
    RunRolledBack,
)
from esper.journal.replay import fold_journal, live_state
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.session.session import Session
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Asked, Laboratory, recipe, stages


def proven(laboratory: Laboratory) -> None:
    """The journal is gapless, and folds to what the trainer had."""
    events = laboratory.journal()
    live = live_state(laboratory.settings.runs_dir / laboratory.run_id)
    assert live is not None
    report = fold_journal(
        laboratory.run_id, [encode(event).value for event in events], live, clock=CLOCK
    )
    assert report.compared
    assert len({event.event_id for event in events}) == len(events)


def test_a_run_killed_at_many_steps_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Kills before the first snapshot, within epochs, in the middle of a graft and twice in a row:
    parameters, journal and telemetry are the same.
    """
    whole = Laboratory(tmp_path / "whole", recipe(), GROWTH)
    expected, session = whole.run()
    assert stages(session)["first", 0] == "FOSSILIZED"
    assert expected.outcome == "FINISHED"

    killed = Laboratory(tmp_path / "killed", recipe(), GROWTH)
    killed.killed_at(0)
    for step in (3, 9, 12, 21, 21, 29, 44):
        killed.killed_at(step, resumed=True)
    outcome, again = killed.run(resumed=True)
    assert outcome == expected
    assert [replace(seed, stage_step=seed.stage_step) for seed in again.state.seeds] == list(
        session.state.seeds
    )
    assert again.cursor.evidence == session.cursor.evidence
    assert again.parts.growing.health == session.parts.growing.health
    lives = [event for event in killed.journal() if isinstance(event, RunResumed)]
    assert [event.incarnation for event in lives] == list(range(1, 9))
    assert lives[0].snapshot_id == ""
    assert lives[-1].restored_step == 40
    outside = ("CheckpointTaken", "RunResumed")
    told = [
        [event.NAME for event in one.journal() if event.NAME not in outside]
        for one in (whole, killed)
    ]
    assert told[0] == told[1]
    steps = [
        {
            (event.event_id, event.step, event.loss)  # type: ignore[attr-defined]
            for event in one.telemetry
            if event.NAME == "TrainingStep"
        }
        for one in (whole, killed)
    ]
    assert steps[0] == steps[1]
    proven(whole)
    proven(killed)


def test_a_damaged_snapshot_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    """With the last manifest changed and the one before deleted, the run goes on from the third,
    says so, and ends with the same bits.
    """
    whole, _ = Laboratory(tmp_path / "whole", recipe(), GROWTH).run()
    laboratory = Laboratory(tmp_path / "damaged", recipe(), GROWTH)
    laboratory.killed_at(36)
    laboratory.killed_at(36, resumed=True)
    taken = [event for event in laboratory.journal() if isinstance(event, CheckpointTaken)]
    assert len(taken) >= 3
    root = laboratory.root
    content = bytearray((root / taken[-1].address).read_bytes())
    content[40] ^= 1
    (root / taken[-1].address).write_bytes(content)
    (root / taken[-2].address).unlink()
    outcome, _ = laboratory.run(resumed=True)
    assert outcome == whole
    said = laboratory.said.getvalue()
    assert (
        f"Snapshot {taken[-1].snapshot_id} cannot be used: Manifest {taken[-1].address} is damaged"
        in said
    )
    assert (
        f"Snapshot {taken[-2].snapshot_id} cannot be used: Manifest {taken[-2].address} is "
        "not in the store"
    ) in said
    assert f"goes on from snapshot {taken[-3].snapshot_id}." in said
    proven(laboratory)


def test_ctrl_c_leaves_a_run_that_goes_on_where_it_was(tmp_path: Path) -> None:
    """Ctrl-C in the middle of an epoch: a snapshot of that very step, RunPaused, and after --resume
    the bits of the uninterrupted run.
    """
    whole, _ = Laboratory(tmp_path / "whole", recipe(), GROWTH).run()
    laboratory = Laboratory(tmp_path / "paused", recipe(), GROWTH)

    def stop(session: Session) -> None:
        if session.step == 29 and not session.parts.journal.replaying:
            session.standing.stop = True

    laboratory.disturb = stop
    outcome, session = laboratory.run()
    assert (outcome.outcome, outcome.steps, session.state.status) == ("INTERRUPTED", 29, "PAUSED")
    last = [event for event in laboratory.journal() if isinstance(event, CheckpointTaken)][-1]
    assert (last.reason, last.at_step) == ("interrupted", 29)
    assert [event.NAME for event in laboratory.journal()][-1] == "RunPaused"
    proven(laboratory)
    laboratory.disturb = lambda _: None
    outcome, _ = laboratory.run(resumed=True)
    assert outcome == whole
    proven(laboratory)
    with pytest.raises(
        UsageError,
        match=r"^Run laboratory-1 is finished, so there is nothing to resume; start a new run\.$",
    ):
        laboratory.run(resumed=True)


def test_other_code_is_found_out_where_the_bits_differ(tmp_path: Path) -> None:
    """Executed again with another learning rate, the first epoch's end is refused with both
    digests, and nothing is written.
    """
    laboratory = Laboratory(tmp_path, recipe(checkpoints={"every_epochs": 0}), GROWTH)
    laboratory.killed_at(20)
    before = laboratory.journal()
    laboratory.recipe = recipe(checkpoints={"every_epochs": 0}, optimizer={"learning_rate": 0.5})
    with pytest.raises(
        CorruptError,
        match=(
            r"^Re-executed, epoch 0 of run laboratory-1 ends with other parameters \(digest "
            r"[0-9a-f]{12}\) than"
        ),
    ):
        laboratory.run(resumed=True)
    after = laboratory.journal()
    assert [event.event_id for event in after[: len(before)]] == [
        event.event_id for event in before
    ]
    assert {event.NAME for event in after[len(before) :]} <= {
        "RunResumed",
        "EpochEnded",
        "SeedTransitioned",
        "AdaptationApplied",
    }


def people(session: Session, *events: Event) -> None:
    """Let requests come in."""
    for number, event in enumerate(events):
        session.parts.consultation.waiting.append(
            Delivered(event, ("people", 0, 10 * session.step + number))
        )


def test_what_comes_in_with_a_rollback_is_not_lost(tmp_path: Path) -> None:
    """A graft that stands behind a rollback in the queue is applied in the new timeline.

    A run killed after it ends alike; nothing is doubled.
    """
    origin = Origin("laboratory-1", "operator", "0" * 32, CLOCK)
    envelopes = {name: origin.envelope(name) for name in ("back", "nowhere")}
    ends = []
    for name in ("whole", "killed"):
        laboratory = Laboratory(tmp_path / name, recipe(), GROWTH[:2])
        graft = laboratory.command(Asked(20, "GERMINATE", "second", 0), 77)
        nowhere = RollbackRequested(
            **envelopes["nowhere"],
            snapshot_id="t9-s9-n9",
            reason="a typing error",
            expires_at=2**52,
        )
        back = RollbackRequested(
            **envelopes["back"], snapshot_id="", reason="the risk", expires_at=2**52
        )

        def disturb(session: Session, asked: tuple[Event, ...] = (nowhere, back, graft)) -> None:
            if session.step == 20 and session.state.timeline == 0:
                people(session, *asked)

        laboratory.disturb = disturb
        if name == "killed":
            laboratory.killed_at(23)
        outcome, session = laboratory.run(resumed=name == "killed")
        ends.append(outcome)
        events = laboratory.journal()
        (rolled,) = (event for event in events if isinstance(event, RunRolledBack))
        assert (rolled.from_step, rolled.step, rolled.timeline, rolled.command_id) == (
            20,
            16,
            1,
            back.event_id,
        )
        applied = [
            event
            for event in events
            if isinstance(event, AdaptationApplied) and event.command_id == graft.event_id
        ]
        assert [(event.timeline, event.step) for event in applied] == [(1, 16)]
        assert (
            "There is no snapshot t9-s9-n9 to roll back to; the request is ignored."
            in laboratory.said.getvalue()
        )
        assert stages(session)["first", 0] == "DORMANT"
        assert set(session.cursor.evidence) == {("second", 0)}
        proven(laboratory)
    assert ends[0] == ends[1]


def test_a_paused_run_answers_requests(tmp_path: Path) -> None:
    """While a run stands still, a snapshot that is asked for is taken and told, once.

    Then it goes on.
    """
    origin = Origin("laboratory-1", "operator", "0" * 32, CLOCK)
    laboratory = Laboratory(
        tmp_path, recipe(run={"epochs": 2, "batch_size": 20}, checkpoints={"every_epochs": 0})
    )
    keep = CheckpointRequested(
        **origin.envelope("keep"), reason="while it is quiet", expires_at=2**52
    )
    told: list[str] = []

    def disturb(session: Session) -> None:
        if session.step == 5 and session.state.status == "RUNNING" and not told:
            told.append("paused")
            people(
                session,
                PauseRequested(**origin.envelope("pause"), reason="a look", expires_at=2**52),
                keep,
            )
        if session.parts.checkpoints.taken and session.state.status == "PAUSED" and len(told) == 1:
            told.append("taken")
            people(
                session,
                keep,
                ResumeRequested(**origin.envelope("resume"), reason="seen", expires_at=2**52),
            )

    laboratory.disturb = disturb
    outcome, _ = laboratory.run()
    assert outcome.outcome == "FINISHED"
    names = [event.NAME for event in laboratory.journal()]
    assert names == [
        "RunStarted",
        "RunPaused",
        "CheckpointTaken",
        "RunResumed",
        "EpochEnded",
        "EpochEnded",
        "RunCompleted",
    ]
    taken = laboratory.journal()[2]
    assert isinstance(taken, CheckpointTaken)
    assert (taken.reason, taken.at_step, taken.command_id, taken.snapshot_id) == (
        "requested",
        5,
        keep.event_id,
        "t0-s5-n2",
    )
    proven(laboratory)


def test_a_run_goes_back_to_its_very_beginning(tmp_path: Path) -> None:
    """Rolled back to the snapshot of step 0, a run is what it was; killed after that, it
    is again.
    """
    origin = Origin("laboratory-1", "operator", "0" * 32, CLOCK)
    whole, _ = Laboratory(tmp_path / "whole", recipe(run={"epochs": 3, "batch_size": 20})).run()
    laboratory = Laboratory(tmp_path / "back", recipe(run={"epochs": 3, "batch_size": 20}))
    back = RollbackRequested(
        **origin.envelope("back"), snapshot_id="t0-s0-n1", reason="from scratch", expires_at=2**52
    )

    def disturb(session: Session) -> None:
        if session.step == 12 and session.state.timeline == 0:
            people(session, back)

    laboratory.disturb = disturb
    laboratory.run_until_timeline(1)
    outcome, session = laboratory.run(resumed=True)
    assert outcome == whole
    assert session.state.timeline == 1
    proven(laboratory)
