"""A whole run is proven piece by piece, and what differs is narrowed as far as journal and
snapshots allow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.events import Origin
from esper.events.records import (
    CheckpointTaken,
    EpochEnded,
    RollbackRequested,
    RunForked,
    TrainingStep,
)
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.record.addresses import Address
from esper.tolaria.record.forking import cut_at
from esper.tolaria.replay.figures import StepTold
from esper.tolaria.replay.reexecution import Archive, quiet
from esper.tolaria.replay.verification import (
    Narrowed,
    PieceCheck,
    Proof,
    Segment,
    Verdict,
    in_few,
    narrowed,
    segments,
)
from esper.tolaria.session.session import Session
from esper.tolaria.timelines.branching import begin
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, model, recipe, with_loop
from tests.unit.tolaria.test_reexecution import asking

SHORT = {"run": {"epochs": 3, "batch_size": 20}}


def verdicts(archive: Archive, *, from_scratch: bool = False) -> list[Verdict]:
    return [PieceCheck(archive, one).run() for one in segments(archive, from_scratch=from_scratch)]


def looked_at(archive: Archive, told: Mapping[str, StepTold] | None = None) -> Narrowed:
    """The first fault from the first step on, looked at again."""
    (found,) = verdicts(archive, from_scratch=True)
    assert found.fault is not None
    return narrowed(archive, found.segment, found.fault, told or {})


def told_by(laboratory: Laboratory) -> dict[str, StepTold]:
    """What a laboratory's run told of its steps."""
    steps = (event for event in laboratory.telemetry if isinstance(event, TrainingStep))
    return {event.event_id: StepTold(event.loss, event.gradient_norm) for event in steps}


def from_step(step: int, change: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The laboratory's model on a machine that computes otherwise from step number `step` on."""

    def made() -> nn.Module:
        host, forwards = model(), [0]

        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            if not module.training:
                return output
            forwards[0] += 1
            return change(output) if forwards[0] > step else output

        host.register_forward_hook(hook)
        return host

    return made


def test_every_piece_of_a_run_with_growth_and_a_rollback_is_proven(tmp_path: Path) -> None:
    """Both timelines, all epochs and all snapshots agree: in pieces between snapshots, and from the
    first step.
    """
    laboratory = Laboratory(tmp_path, recipe(run={"epochs": 4, "batch_size": 20}), GROWTH[:4])
    asking(laboratory, 13)
    ask = laboratory.disturb
    origin = Origin(laboratory.run_id, "operator", "0" * 32, CLOCK)
    back = RollbackRequested(
        **origin.envelope("back"), snapshot_id="", reason="the risk", expires_at=2**52
    )

    def disturb(session: Session) -> None:
        ask(session)
        if session.step == 21 and session.state.timeline == 0:
            session.parts.consultation.waiting.append(Delivered(back, ("people", 0, 100)))

    laboratory.disturb = disturb
    laboratory.run()
    archive = laboratory.archive()
    ended = sum(isinstance(event, EpochEnded) for event in archive.events)
    taken = sum(isinstance(event, CheckpointTaken) for event in archive.events)
    for from_scratch in (False, True):
        found = verdicts(archive, from_scratch=from_scratch)
        assert [one.fault for one in found] == [None] * len(found)
        assert (sum(one.epochs for one in found), sum(one.snapshots for one in found)) == (
            ended,
            taken,
        )
        assert len(found) == (2 if from_scratch else taken + 2)
        proof = Proof(archive.run_id, tuple(found), None, (), 1.0)
        assert (
            f"agree at the end of {ended} epochs, and {taken} snapshots bit for bit"
            in proof.sentence()
        )
        assert sum(one.steps for one in found) >= 21 + 16


def test_a_changed_digest_is_found_at_its_epoch(tmp_path: Path) -> None:
    """One epoch's digest in the journal is another: the piece that ends there names the epoch, all
    other pieces agree.
    """
    laboratory = Laboratory(tmp_path, recipe(**SHORT))
    asking(laboratory)
    laboratory.run()
    archive = laboratory.archive()
    forged = [
        replace(one, parameters_digest="ab" * 32)
        if isinstance(one, EpochEnded) and one.epoch == 1
        else one
        for one in archive.events
    ]
    found = verdicts(replace(archive, events=forged))
    (odd,) = (one for one in found if one.fault is not None)
    assert odd.fault is not None
    assert (odd.fault.epoch, odd.fault.agreed.step, odd.fault.at.step) == (1, 8, 16)
    assert (
        odd.fault.names == ()
    )  # no tensor differs from those of the snapshot that was taken there


def test_another_arithmetic_is_narrowed_to_the_steps_between_two_digests(tmp_path: Path) -> None:
    """Other numerics from step 13 on: with snapshots by epochs it is some step after 8, with one at
    step 12 after that; tensors are named.
    """
    for name, asked, agreed in (("epochs", (), 8), ("more", (12,), 12)):
        laboratory = Laboratory(tmp_path / name, recipe(**SHORT))
        asking(laboratory, *asked)
        laboratory.run()
        found = looked_at(
            with_loop(laboratory.archive(), model=from_step(13, lambda output: output * 1.0001))
        )
        assert found.deterministic
        assert (found.fault.epoch, found.fault.agreed.step, found.fault.at.step) == (1, agreed, 16)
        assert {"model/first.weight", "host/0/exp_avg"} <= set(found.fault.names)
        assert (
            f"arises after step {agreed} and at the latest at step 16, in timeline 0"
            in found.sentence()
        )
        assert "Two executions here agree with each other" in found.sentence()


@pytest.mark.parametrize(("name", "figure"), [("forward", "loss"), ("backward", "gradient norm")])
def test_another_arithmetic_is_narrowed_to_its_step_by_what_the_run_told(
    tmp_path: Path, name: str, figure: str
) -> None:
    """Other numerics from step 14 on: the first loss that is another one is that of step 14, and
    the first gradient where only that differs.
    """
    laboratory = Laboratory(tmp_path, recipe(**SHORT))
    asking(laboratory)
    laboratory.run()
    told = told_by(laboratory)
    assert len(told) == 24

    def backward(output: Tensor) -> Tensor:
        changed = output * 1.0
        changed.register_hook(lambda gradient: gradient * 1.0001)
        return changed

    change = backward if name == "backward" else lambda output: output * 1.0001
    found = looked_at(with_loop(laboratory.archive(), model=from_step(13, change)), told)
    assert (found.deterministic, found.step, found.figure, found.agreed) == (True, 14, figure, 5)
    assert (
        f"the {figure} of step 14 is the first that differs from what the run reported"
        in found.sentence()
    )
    assert found.then != found.now


def test_a_forged_digest_is_told_from_another_arithmetic(tmp_path: Path) -> None:
    """Where all that the run told agrees, the sentence says so."""
    laboratory = Laboratory(tmp_path, recipe(**SHORT))
    asking(laboratory)
    laboratory.run()
    told = told_by(laboratory)
    archive = laboratory.archive()
    forged = [
        replace(one, parameters_digest="ab" * 32)
        if isinstance(one, EpochEnded) and one.epoch == 1
        else one
        for one in archive.events
    ]
    found = looked_at(replace(archive, events=forged), told)
    assert (found.step, found.agreed) == (None, 8)
    assert "what the run reported of 8 steps there agrees" in found.sentence()


def test_chance_is_named_by_step_and_tensor(tmp_path: Path) -> None:
    """What differs from one execution to the next is found at the very step, with the tensors."""
    laboratory = Laboratory(tmp_path, recipe(**SHORT))
    asking(laboratory)
    laboratory.run()

    def chance(output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        return output * torch.rand(output.shape, generator=generator)

    found = looked_at(with_loop(laboratory.archive(), model=from_step(13, chance)))
    assert (found.deterministic, found.step) == (False, 14)
    assert "model/first.weight" in found.names
    assert "first after step 14 in" in found.sentence()


def test_a_fork_is_proven(tmp_path: Path) -> None:
    """All its pieces, from its own snapshots and from its parent's state.

    Without that state the proof says whose state is lost.
    """
    parent = Laboratory(tmp_path, recipe(**SHORT), GROWTH[:4])
    parent.run()
    where = cut_at(parent.journal(), 13)
    fork = parent.fork_lab("fork", [one for one in GROWTH[:4] if one.step > 13])
    fork.run(
        fork=begin(parent.archive(), where, changes=(), offered=(), reason="test", progress=quiet())
    )
    archive = fork.archive()
    taken = sum(isinstance(event, CheckpointTaken) for event in archive.events)
    for from_scratch in (False, True):
        found = verdicts(archive, from_scratch=from_scratch)
        assert [one.fault for one in found] == [None] * len(found)
        assert sum(one.snapshots for one in found) == taken > 0
        assert sum(one.steps for one in found) == 24 - 13
        assert found[0].begun == "of run laboratory-1 at step 13"
    opening = next(event.address for event in archive.events if isinstance(event, RunForked))
    (fork.root / opening).unlink()
    lost = verdicts(archive, from_scratch=True)[0].fault
    assert lost is not None
    assert lost.sentence.startswith(
        "Run fork begins with the state of run laboratory-1 at step 13, which is not "
        "available: restore it, or fork that run again. Snapshot of run laboratory-1"
    )


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_joined_pieces_are_the_same_run(count: int) -> None:
    """All states in their order, no piece over two timelines, and few where few are asked for."""
    pieces = [
        Segment(timeline, Address(timeline, step, step), (Address(timeline, step + 2, step + 2),))
        for timeline, steps in ((0, range(0, 14, 2)), (1, range(6, 12, 2)))
        for step in steps
    ]
    joined = in_few(pieces, count)
    assert [way for one in joined for way in one.ways] == [
        way for one in pieces for way in one.ways
    ]
    assert all({way.timeline for way in one.ways} == {one.timeline} for one in joined)
    assert all(one.begin in {piece.begin for piece in pieces} for one in joined)
    assert len(joined) <= min(count + 1, len(pieces))
