"""A run that begins with another one's state: what follows from it, what it refuses, and journals
that were changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import CorruptError, RejectedError
from esper.events import JournalEvent, Origin
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    LeftOut,
    RunForked,
    RunStarted,
)
from esper.lifecycle import Context, Guardrails, RunState, SeedState, decide, evolve, from_canonical
from esper.lifecycle.commands import Adapt, CountLost, EndEpoch, Fork, Source
from tests import samples

KERNEL = "ab" * 32
START = replace(samples.START, decisions="LOCKSTEP", family="p")
GROWN = SeedState(
    "a",
    0,
    "TRAINING",
    "ACTIVE",
    KERNEL,
    "mlp",
    "d0",
    alpha_target=0.3,
    stage_step=9,
    stage_epoch=2,
    adapted_epoch=2,
)
EARLIER = LeftOut(
    run_id="o", decision_id="d9", command="CULL", layer="a", seed=0, kernel_id="", epoch=5
)
PARENT = RunState(
    "p",
    "RUNNING",
    timeline=1,
    sequence=40,
    incarnation=3,
    epoch=3,
    step=17,
    seeds=(GROWN, SeedState("a", 1)),
    adapted_epoch=2,
    adaptations=1,
    positions=(("decision.tamiyo", 0, 7),),
    commands=("c",),
    instabilities=1,
    left_out=(EARLIER,),
)
LEFT_OUT = LeftOut(
    run_id="p", decision_id="d1", command="GERMINATE", layer="a", seed=1, kernel_id=KERNEL, epoch=3
)
FORK = Fork(
    start=START,
    forked=PARENT,
    address="manifests/x.json",
    sha256="00",
    changes=("run.epochs=9",),
    without=(LEFT_OUT,),
    reason="to see",
)


def carried_out(command: Fork = FORK, run_id: str = "f") -> tuple[JournalEvent, ...]:
    """The events of a fork."""
    return decide(
        RunState(run_id),
        command,
        Context(Origin(run_id, "trainer", "0" * 32, ManualClock()), 0, Guardrails()),
    )


def fold(events: tuple[JournalEvent, ...], run_id: str = "f") -> RunState:
    """The state after them."""
    state = RunState(run_id)
    for event in events:
        state = evolve(state, event)
    return state


def test_a_fork_has_the_seeds_and_the_counts_of_its_parent_and_nothing_else() -> None:
    """Seeds, epoch, step and adaptations are the parent's.

    Timeline, commands, positions, incarnation and instabilities are its own.
    """
    started, forked = carried_out()
    assert isinstance(started, RunStarted)
    assert isinstance(forked, RunForked)
    assert (started.family, started.step, started.epoch) == ("p", 0, 0)
    assert (
        forked.parent_run_id,
        forked.parent_timeline,
        forked.parent_step,
        forked.parent_sequence,
    ) == ("p", 1, 17, 40)
    assert (forked.timeline, forked.epoch, forked.step, forked.without, forked.left_out) == (
        0,
        3,
        17,
        ("d1",),
        (EARLIER, LEFT_OUT),
    )
    state = fold((started, forked))
    assert state == RunState(
        "f",
        "RUNNING",
        sequence=2,
        epoch=3,
        step=17,
        seeds=PARENT.seeds,
        adapted_epoch=2,
        adaptations=1,
        left_out=(EARLIER, LEFT_OUT),
    )
    assert from_canonical(state.canonical()) == state
    assert '"left_out"' not in replace(state, left_out=()).canonical()


@pytest.mark.parametrize(
    ("changed", "applied"),
    [
        ({}, False),
        ({"seed": 0}, False),
        ({"kernel_id": "cd" * 32}, True),
        ({"trusted": True}, True),
    ],
    ids=["the same", "another seed, which is taken", "another kernel", "a person"],
)
def test_a_left_out_decision_is_refused_when_it_comes_again(
    changed: dict[str, object],
    applied: bool,  # noqa: FBT001
) -> None:
    """The same command for the same seed and kernel in the same epoch, whatever its id.

    Another kernel, or a person's wish, is none of it.
    """
    state = fold(carried_out())
    values = {
        "command": "GERMINATE",
        "layer": "a",
        "seed": 1,
        "kernel_id": KERNEL,
        "family": "mlp",
        "alpha_target": 0.3,
    }
    command = Adapt(source=Source("c1"), decision_id="new", **{**values, **changed})  # type: ignore[arg-type]
    context = Context(Origin("f", "trainer", "0" * 32, ManualClock()), 17, Guardrails())
    answer = decide(state, command, context)[0]
    assert isinstance(answer, AdaptationApplied if applied else AdaptationRejected)
    if not changed:
        assert (
            getattr(answer, "reason", "")
            == "This fork leaves out decision d1 of run p, which this one repeats."
        )


def test_it_is_accepted_in_the_next_epoch() -> None:
    """What was left out is one decision, not all that are like it."""
    state = fold(carried_out())
    context = Context(Origin("f", "trainer", "0" * 32, ManualClock()), 20, Guardrails())
    figures: dict[str, Any] = dict.fromkeys(
        (
            "train_loss",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "test_loss",
            "test_accuracy",
            "learning_rate",
        ),
        0.5,
    )
    for event in decide(
        state, EndEpoch(step=20, parameters_digest="", alphas=(), **figures), context
    ):
        state = evolve(state, event)
    command = Adapt(
        source=Source("c2"),
        decision_id="new",
        command="GERMINATE",
        layer="a",
        seed=1,
        kernel_id=KERNEL,
        alpha_target=0.3,
    )
    assert isinstance(decide(state, command, context)[0], AdaptationApplied)


def test_a_state_of_another_model_is_refused() -> None:
    """Seeds at other places, or a fork into itself, cannot be begun with.

    Nor can a fork begin a run that has begun.
    """
    with pytest.raises(
        RejectedError,
        match=(
            r"^Run p at step 17 has 1 seeds at other places than run f with its 2, or is the "
            r"same run"
        ),
    ):
        carried_out(replace(FORK, forked=replace(PARENT, seeds=PARENT.seeds[:1])))
    with pytest.raises(RejectedError, match="or is the same run"):
        carried_out(run_id="p")
    context = Context(Origin("f", "trainer", "0" * 32, ManualClock()), 17, Guardrails())
    with pytest.raises(RejectedError, match=r"^Run f is RUNNING; Fork does not fit\.$"):
        decide(fold(carried_out()), FORK, context)


def test_a_changed_journal_is_refused() -> None:
    """A RunForked that is not the second event, or that brings other seeds, is a sentence that
    names it.
    """
    started, forked = carried_out()
    assert isinstance(forked, RunForked)
    lost = decide(
        fold((started,)),
        CountLost(topic="t", lost=1),
        Context(Origin("f", "trainer", "0" * 32, ManualClock()), 0, Guardrails()),
    )
    with pytest.raises(
        CorruptError,
        match=r"^Event 2 of run f is a RunForked, which can only be the second of a journal",
    ):
        fold((started, *lost, replace(forked, sequence=2)))
    with pytest.raises(
        CorruptError, match=r"^Event 1 \(RunForked\) of run f brings other seeds than the run has"
    ):
        fold((started, replace(forked, seeds=forked.seeds[:1])))
