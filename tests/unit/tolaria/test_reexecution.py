"""Any step of a run is rebuilt from its journal, bit for bit, without a broker, an outbox or any
other part.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent, Origin
from esper.events.records import (
    AdaptationApplied,
    CheckpointRequested,
    CheckpointTaken,
    EpochEnded,
    RollbackRequested,
    SeedTransitioned,
)
from esper.kasmina.unpacked import Unpacked
from esper.lifecycle.commands import Adapt, Move, Source
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.record.addresses import Address, address_of
from esper.tolaria.record.journal import Diverged
from esper.tolaria.replay.comparison import differing
from esper.tolaria.replay.reexecution import Archive, Reexecution, Rerun, Scripted
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.step.evaluation import parameters_digest
from tests.unit.tolaria.laboratory import (
    CLOCK,
    GROWTH,
    Laboratory,
    data,
    kernel_id,
    pair,
    recipe,
    stages,
    with_loop,
)


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def rebuilt(archive: Archive, taken: CheckpointTaken, *, from_scratch: bool = False) -> Rerun:
    """The state of a snapshot, without that snapshot."""
    address = Address(taken.at_timeline, taken.at_step, taken.at_sequence)
    return Reexecution(
        archive,
        quiet(),
        usable=lambda anchor: not from_scratch and anchor.name != taken.snapshot_id,
    ).rebuild(address)


def asking(laboratory: Laboratory, *steps: int) -> None:
    """Have snapshots taken before these steps too, each at its step however slow the writer is."""
    origin, asked = Origin(laboratory.run_id, "operator", "0" * 32, CLOCK), set[int]()

    def disturb(session: Session) -> None:
        if (
            session.step in steps
            and session.step not in asked
            and not session.parts.journal.replaying
        ):
            asked.add(session.step)
            request = CheckpointRequested(
                **origin.envelope(f"keep/{session.step}"), reason="a look", expires_at=2**52
            )
            session.parts.consultation.waiting.append(
                Delivered(request, ("people", 0, session.step))
            )

    laboratory.disturb = disturb


def taken(laboratory: Laboratory) -> list[CheckpointTaken]:
    return [event for event in laboratory.journal() if isinstance(event, CheckpointTaken)]


def test_every_snapshot_of_a_growing_run_is_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    """Tensors, optimizers, random streams, cursor, evidence, health and state: from the snapshot
    before it, and from the first step alone.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH)
    asking(laboratory, 0, 5, 12, 19, 22, 30, 45)
    laboratory.run()
    archive = laboratory.archive()
    written = taken(laboratory)
    assert {one.at_step for one in written} >= {0, 5, 12, 19, 22, 30, 45}
    for one in written:
        stored = archive.tensors.read(one.address, one.sha256)
        near = rebuilt(archive, one)
        assert differing(near.snapshot(), stored) == []
        assert near.begun == (one.parent or "")
    scratch = rebuilt(archive, written[-1], from_scratch=True)
    assert (
        differing(scratch.snapshot(), archive.tensors.read(written[-1].address, written[-1].sha256))
        == []
    )
    assert scratch.begun == ""
    assert stages(scratch.session)["first", 0] == "FOSSILIZED"


def test_states_of_a_timeline_that_was_left_and_of_the_one_that_followed(tmp_path: Path) -> None:
    """After a rollback from step 20 to 16: what was left is rebuilt, and so is what follows,
    through the left one when no snapshot may be used.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH[:4])
    asking(laboratory, 19, 29)
    ask = laboratory.disturb
    back = RollbackRequested(
        **Origin(laboratory.run_id, "operator", "0" * 32, CLOCK).envelope("back"),
        snapshot_id="",
        reason="the risk",
        expires_at=2**52,
    )

    def disturb(session: Session) -> None:
        ask(session)
        if session.step == 21 and session.state.timeline == 0:
            session.parts.consultation.waiting.append(Delivered(back, ("people", 0, 100)))

    laboratory.disturb = disturb
    laboratory.run()
    archive, written = laboratory.archive(), taken(laboratory)
    (left,) = (one for one in written if one.at_step == 19)
    (after,) = (one for one in written if (one.at_timeline, one.at_step) == (1, 29))
    for one in (left, after):
        assert (
            differing(
                rebuilt(archive, one).snapshot(), archive.tensors.read(one.address, one.sha256)
            )
            == []
        )
    scratch = rebuilt(archive, after, from_scratch=True)
    assert scratch.begun == ""
    assert differing(scratch.snapshot(), archive.tensors.read(after.address, after.sha256)) == []
    assert address_of(archive.events, 20, timeline=0).timeline == 0
    assert address_of(archive.events, 18) == address_of(
        archive.events, 18, timeline=0
    )  # timeline 1 begins later: it goes on from there
    assert address_of(archive.events, None).step == 64
    with pytest.raises(
        UsageError,
        match=r"^Run laboratory-1 has no step 22 in timeline 0: its steps there are 0 to 21\.$",
    ):
        address_of(archive.events, 22, timeline=0)
    with pytest.raises(
        UsageError,
        match=r"^Run laboratory-1 has no step 65 in timeline 1: its steps there are 19 to 64\.$",
    ):
        address_of(archive.events, 65)
    with pytest.raises(
        UsageError, match=r"^Run laboratory-1 has no timeline 2; its timelines are 0 to 1\.$"
    ):
        address_of(archive.events, 30, timeline=2)


def test_the_whole_run_by_its_script_is_the_run(tmp_path: Path) -> None:
    """Run on from step 3 with the decisions of the record as a script: parameters of each epoch are
    the record's; without one decision they are not.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH)
    laboratory.run()
    archive = laboratory.archive()
    start = address_of(archive.events, 3)
    digests = {
        event.epoch: event.parameters_digest
        for event in archive.events
        if isinstance(event, EpochEnded)
    }
    script = scripted(archive.events[start.sequence :])
    assert len(script) > 8
    rerun = Reexecution(archive, quiet()).rebuild(start)
    events = rerun.run_on(None, script)
    assert {
        event.epoch: event.parameters_digest for event in events if isinstance(event, EpochEnded)
    } == digests
    assert stages(rerun.session)["first", 0] == "FOSSILIZED"

    other = Reexecution(archive, quiet()).rebuild(start)
    without = [
        (step, one)
        for step, one in script
        if not (isinstance(one, Adapt) and one.command == "GERMINATE" and one.layer == "second")
    ]
    events = other.run_on(40, without)
    assert other.session.step == 40
    ends = {
        event.epoch: event.parameters_digest for event in events if isinstance(event, EpochEnded)
    }
    assert ends[0] == digests[0]
    assert ends[4] != digests[4]
    assert stages(other.session)["second", 1] == "DORMANT"


def scripted(events: Sequence[JournalEvent]) -> list[tuple[int, Scripted]]:
    """What came from outside in a part of a journal, as commands."""
    found: list[tuple[int, Scripted]] = []
    for event in events:
        if isinstance(event, AdaptationApplied):
            target = next(
                (
                    one.alpha_target
                    for one in events
                    if isinstance(one, SeedTransitioned) and one.causation_id == event.event_id
                ),
                0.0,
            )
            fields = {
                name: getattr(event, name)
                for name in (
                    "decision_id",
                    "command",
                    "layer",
                    "seed",
                    "kernel_id",
                    "family",
                    "alpha",
                )
            }
            found.append(
                (
                    event.step,
                    Adapt(
                        source=Source(event.command_id), alpha_target=target, trusted=True, **fields
                    ),
                )
            )
        elif isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING":
            found.append(
                (
                    event.step,
                    Move(
                        layer=event.layer, seed=event.seed, to_stage="TRAINING", reason=event.reason
                    ),
                )
            )
    return found


def test_a_lost_kernel_and_a_lost_snapshot_are_named(tmp_path: Path) -> None:
    """Without a snapshot's manifest the state comes from the one before it, with a note.

    Without the grafted kernel a sentence names it.
    """
    laboratory = Laboratory(tmp_path, recipe(run={"epochs": 3, "batch_size": 20}), GROWTH[:2])
    asking(laboratory)
    laboratory.run()
    archive, written = laboratory.archive(), taken(laboratory)
    (laboratory.root / written[-1].address).unlink()
    rerun = Reexecution(archive, quiet()).rebuild(address_of(archive.events, 20))
    assert rerun.begun == written[-2].snapshot_id
    (note,) = rerun.notes
    assert note.startswith(
        f"Snapshot {written[-1].snapshot_id} cannot be used: Manifest "
        f"{written[-1].address} is not in the store"
    )
    (ended,) = (
        event for event in archive.events if isinstance(event, EpochEnded) and event.epoch == 1
    )
    assert parameters_digest(
        Reexecution(archive, quiet())
        .rebuild(address_of(archive.events, 16))
        .session.parts.growing.module
    ) == (ended.parameters_digest)

    def lost(kernel_id: str) -> Unpacked:
        raise CorruptError(f"Kernel {kernel_id} is lost.")

    with pytest.raises(CorruptError, match=rf"^Kernel {kernel_id('first')} is lost\.$"):
        Reexecution(replace(archive, kernels=lost), quiet(), usable=lambda _: False).rebuild(
            address_of(archive.events, 6)
        )


def test_another_model_diverges_at_the_first_epoch_that_ends(tmp_path: Path) -> None:
    """With another host the end of the first epoch is refused by both digests, and the error has
    the event of the record and the other.
    """
    laboratory = Laboratory(tmp_path, recipe(run={"epochs": 2, "batch_size": 20}))
    laboratory.run()
    changed = with_loop(laboratory.archive(), splits=replace(data(), train=pair(160, 9)))
    with pytest.raises(
        Diverged, match=r"^Re-executed, epoch 0 of run laboratory-1 ends with other parameters"
    ) as caught:
        Reexecution(changed, quiet(), usable=lambda _: False).rebuild(
            address_of(changed.events, None)
        )
    assert isinstance(caught.value.recorded, EpochEnded)
    assert (caught.value.recorded.epoch, caught.value.recorded.step) == (0, 8)


def test_snapshots_between_steps_change_nothing(tmp_path: Path) -> None:
    """With a snapshot every third step, within epochs too, the run ends with the bits of the run
    that takes none, and each can be rebuilt.
    """
    plain, _ = Laboratory(tmp_path / "plain", recipe(checkpoints={"every_epochs": 0}), GROWTH).run()
    laboratory = Laboratory(
        tmp_path / "often", recipe(checkpoints={"every_epochs": 0, "every_steps": 3}), GROWTH
    )
    asking(laboratory)
    outcome, _ = laboratory.run()
    assert outcome == plain
    written = [one for one in taken(laboratory) if one.reason == "schedule"]
    assert [one.at_step for one in written] == [
        *range(3, 63, 3)
    ]  # the one of step 63 is not durable before the run ends
    archive = laboratory.archive()
    for one in written[5:10]:
        assert (
            differing(
                rebuilt(archive, one).snapshot(), archive.tensors.read(one.address, one.sha256)
            )
            == []
        )
