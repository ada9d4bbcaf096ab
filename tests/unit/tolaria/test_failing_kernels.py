"""Kernels that fail in a live run: what raises, gives NaN or another shape is reported, put on its
fallback and culled; training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.checkpoint import Taken
from esper.errors import EsperError
from esper.events.codec import encode
from esper.events.records import (
    InstabilityDetected,
    KernelFailed,
    RunRolledBack,
    SeedHealth,
    SeedTransitioned,
    TrainingStep,
)
from esper.journal.replay import fold_journal
from esper.lifecycle.commands import Fail
from esper.tolaria.exchange import packet
from esper.tolaria.session.session import Session
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Asked, Killed, Laboratory, recipe, stages

BLENDING = (Asked(1, "GERMINATE"), Asked(6, "ADVANCE"))


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("the kernel is broken")


def not_finite(x: Tensor) -> Tensor:
    return torch.full((len(x), 8), math.nan)


def too_wide(x: Tensor) -> Tensor:
    return torch.zeros(len(x), 9)


def break_kernel(session: Session, broken: Callable[[Tensor], Tensor]) -> None:
    """From now on the kernel in first[0] does something else."""
    session.parts.growing.kernels["first", 0].slot.kernel.forward = broken


def failures(laboratory: Laboratory) -> list[KernelFailed]:
    return [event for event in laboratory.journal() if isinstance(event, KernelFailed)]


def folds(laboratory: Laboratory) -> None:
    messages = [encode(event).value for event in laboratory.journal()]
    fold_journal(laboratory.run_id, messages, None, clock=CLOCK)


@pytest.mark.parametrize(
    ("broken", "phase", "error"),
    [
        (raising, "FORWARD", "RuntimeError: the kernel is broken."),
        (not_finite, "NON_FINITE", "The kernel's output was not finite."),
        (too_wide, "FORWARD", "BuildError: The kernel gives (20, 9) for a chunk of (20, 8)."),
    ],
)
def test_a_kernel_that_fails_three_times_is_culled_and_training_goes_on(
    tmp_path: Path, broken: Callable[[Tensor], Tensor], phase: str, error: str
) -> None:
    """Three KernelFailed in a row, ERROR_RECOVERY in packet and health, CULLED by the gate, and
    every loss is finite.
    """
    laboratory = Laboratory(
        tmp_path,
        recipe(run={"epochs": 3, "batch_size": 20}, telemetry={"every_steps": 1}),
        BLENDING,
    )
    packets = []

    def disturb(session: Session) -> None:
        if session.step == 10:
            break_kernel(session, broken)
        if session.step == 14:
            parts = session.parts
            packets.append(
                packet.build(
                    origin=parts.origin,
                    state=session.state,
                    growing=parts.growing,
                    recipe=parts.recipe,
                    figures=session.cursor.figures,
                    evidence=session.cursor.evidence,
                    statistics=parts.monitor.statistics,
                    kernels=[],
                    total_steps=session.total_steps,
                )
            )

    laboratory.disturb = disturb
    outcome, session = laboratory.run()
    assert [
        (one.step, one.consecutive_errors, one.phase, one.error) for one in failures(laboratory)
    ] == [(step, number, phase, error) for step, number in ((10, 1), (11, 2), (12, 3))]
    seed = packets[0].layers[0].seeds[0]
    assert (seed.execution, seed.stage) == ("ERROR_RECOVERY", "BLENDING")
    health = [
        one
        for one in laboratory.telemetry
        if isinstance(one, SeedHealth) and (one.layer, one.seed) == ("first", 0)
    ]
    assert [one.step for one in health if one.recovering] == [13, 14, 15, 16]
    assert [one.errors for one in health if 10 <= one.step <= 14] == [0, 1, 2, 3, 3]
    culled = next(
        event
        for event in laboratory.journal()
        if isinstance(event, SeedTransitioned) and event.to_stage == "CULLED"
    )
    assert (culled.step, culled.reason) == (16, "its kernel failed 3 times in a row")
    losses = [one.loss for one in laboratory.telemetry if isinstance(one, TrainingStep)]
    assert len(losses) == 24
    assert all(map(math.isfinite, [*losses, outcome.loss]))
    assert (outcome.outcome, stages(session)["first", 0]) == ("FINISHED", "EMBARGOED")
    folds(laboratory)


def test_a_kernel_that_recovers_in_time_stays(tmp_path: Path) -> None:
    """Two failures and then a success: the count begins again, and the seed blends on."""
    laboratory = Laboratory(tmp_path, recipe(run={"epochs": 3, "batch_size": 20}), BLENDING)

    def disturb(session: Session) -> None:
        if session.step in (10, 15):
            break_kernel(session, raising)
        if session.step in (12, 17):
            del session.parts.growing.kernels["first", 0].slot.kernel.forward

    laboratory.disturb = disturb
    _, session = laboratory.run()
    assert [(one.step, one.consecutive_errors) for one in failures(laboratory)] == [
        (10, 1),
        (11, 2),
        (15, 1),
        (16, 2),
    ]
    seed = session.state.seed("first", 0)
    assert seed is not None
    assert seed.execution == "ACTIVE"
    assert seed.stage in ("BLENDING", "SHADOWING")


BROKEN = (10, 11, 16, 17)


def breaks(begin: int) -> Callable[[Session], None]:
    """Breaks the kernel in first[0] for the steps in BROKEN, from step `begin` on."""

    def disturb(session: Session) -> None:
        if ("first", 0) not in session.parts.growing.kernels:
            return
        kernel = session.parts.growing.kernels["first", 0].slot.kernel
        if session.step in BROKEN and session.step >= begin:
            break_kernel(session, raising)
        elif "forward" in vars(kernel):
            del kernel.forward

    return disturb


@pytest.mark.parametrize("at", [11, 12, 16, 17, 20])
def test_failures_of_the_past_are_failures_again(tmp_path: Path, at: int) -> None:
    """A run that is killed after a kernel failed goes on to the same bits, though the kernel is
    whole in its next life: the record says it failed.
    """
    ends = []
    for name in ("whole", "killed"):
        asking = {
            "enabled": True,
            "start_timeout_s": 0,
        }  # nobody answers; without snapshots, the consultations are executed again, too
        settings = recipe(
            run={"epochs": 4, "batch_size": 20}, tamiyo=asking, checkpoints={"every_epochs": 0}
        )
        laboratory = Laboratory(tmp_path / name, settings, BLENDING, disturb=breaks(0))
        if name == "killed":
            laboratory.killed_at(at)
            laboratory.disturb = breaks(at)
        outcome, _ = laboratory.run(resumed=name == "killed")
        ends.append(outcome)
        assert [(one.step, one.consecutive_errors) for one in failures(laboratory)] == [
            (10, 1),
            (11, 2),
            (16, 1),
            (17, 2),
        ]
        folds(laboratory)
    assert ends[0] == ends[1]


def unstable(times: int) -> Callable[[Session], None]:
    """Breaks the FOSSILIZED kernel in first[0] at step 37 of the first timelines."""

    def disturb(session: Session) -> None:
        if (
            session.step == 37
            and session.state.timeline < times
            and stages(session)["first", 0] == "FOSSILIZED"
        ):
            break_kernel(session, raising)

    return disturb


def test_a_fossilised_kernel_that_fails_sends_the_run_back(tmp_path: Path) -> None:
    """One failure: InstabilityDetected, RunRolledBack to the last snapshot, a new timeline, and the
    run ends in order.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH, disturb=unstable(1))
    outcome, session = laboratory.run()
    assert (outcome.outcome, session.state.timeline, session.state.instabilities) == (
        "FINISHED",
        1,
        1,
    )
    events = laboratory.journal()
    names = [event.NAME for event in events]
    first = names.index("KernelFailed")
    assert names[first : first + 3] == ["KernelFailed", "InstabilityDetected", "RunRolledBack"]
    detected, rolled = events[first + 1], events[first + 2]
    assert isinstance(detected, InstabilityDetected)
    assert isinstance(rolled, RunRolledBack)
    assert (detected.layer, detected.seed, detected.step) == ("first", 0, 37)
    assert (
        detected.reason
        == "The fossilised kernel of first[0] failed: RuntimeError: the kernel is broken."
    )
    assert (rolled.timeline, rolled.step, rolled.from_step, rolled.epoch) == (1, 32, 37, 4)
    assert rolled.reason == "A fossilised kernel failed."
    assert stages(session)["first", 0] == "FOSSILIZED"
    steps = [
        (one.step, one.event_id) for one in laboratory.telemetry if isinstance(one, TrainingStep)
    ]
    assert [step for step, _ in steps] == [*range(1, 38), *range(33, 65)]
    assert len({identity for _, identity in steps}) == len(steps)
    folds(laboratory)


def test_the_second_time_ends_the_run(tmp_path: Path) -> None:
    """A second failure of a fossilised kernel, in the new timeline: the run stops with the reason,
    and cannot be resumed.
    """
    laboratory = Laboratory(tmp_path, recipe(), GROWTH, disturb=unstable(2))
    with laboratory.life() as (trainer, _):
        with pytest.raises(
            EsperError, match="has been rolled back for such a failure before, so it stops"
        ) as caught:
            trainer.run()
        trainer.session.parts.journal.do(
            Fail(error="EsperError", reason=str(caught.value)), trainer.session.step
        )
        assert (trainer.session.state.timeline, trainer.session.state.instabilities) == (1, 2)
    with pytest.raises(
        EsperError,
        match=(
            r"^Run laboratory-1 ended by a failure, so there is nothing to resume; start a new "
            r"run\.$"
        ),
    ):
        laboratory.run(resumed=True)
    folds(laboratory)


@pytest.mark.parametrize("moment", ["unwritten", "before", "after", "later"])
def test_a_rollback_survives_a_kill(tmp_path: Path, moment: str) -> None:
    """Killed between the failure and the rollback, just after it, or steps later: the resumed run
    ends as the one that was not killed.

    Also where the last snapshot was not durable yet, so that the journal does not know it.
    """
    whole, _ = Laboratory(tmp_path / "whole", recipe(), GROWTH, disturb=unstable(1)).run()
    laboratory = Laboratory(tmp_path / "killed", recipe(), GROWTH, disturb=unstable(1))
    with laboratory.life() as (trainer, _):
        session = trainer.session
        writer, collect = session.parts.checkpoints.writer, session.parts.checkpoints.writer.collect

        def collected(*, wait: bool = False) -> Taken | None:
            kill(session)
            return collect(wait=wait) if wait or moment == "before" else None

        def later(one: Session) -> None:
            unstable(1)(one)
            if one.state.timeline and one.step == (32 if moment == "after" else 35):
                kill(one)

        if moment in ("unwritten", "before"):
            writer.collect = collected  # type: ignore[method-assign]
        else:
            laboratory.disturb = later
        with pytest.raises(Killed):
            trainer.run()
    laboratory.disturb = unstable(1)
    outcome, session = laboratory.run(resumed=True)
    assert outcome == whole
    assert session.state.timeline == 1
    assert [event.NAME for event in laboratory.journal()].count("RunRolledBack") == 1
    folds(laboratory)


def kill(session: Session) -> None:
    """The end of a process, once a kernel has failed."""
    if session.state.instabilities:
        raise Killed
