"""What if: both branches of a decision, from its record.

The one with it is the record, the one without it is the run that never had it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from esper.cli.runs.whatif import draw, headline, show
from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import AdaptationApplied, EpochEnded
from esper.tolaria.record.forking import Cut
from esper.tolaria.session.progress import Progress
from esper.tolaria.timelines.branching import begin
from esper.tolaria.timelines.whatif import Side, asked, closed_loop, keep, open_loop
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Asked, Laboratory, recipe

GRAFT = GROWTH[2]
CAUSED = (GROWTH[4], GROWTH[8])
"""A germination at step 8, and what was commanded for its seed afterwards."""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A run that has grown."""
    laboratory = Laboratory(tmp_path_factory.mktemp("parent"), recipe(), GROWTH)
    laboratory.run()
    return laboratory


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def applied(laboratory: Laboratory, step: int) -> AdaptationApplied:
    """The decision that was applied at a step."""
    return next(
        event
        for event in laboratory.journal()
        if isinstance(event, AdaptationApplied) and event.step == step
    )


def digests(events: Sequence[JournalEvent]) -> dict[int, str]:
    """Parameters at the end of each epoch."""
    return {
        event.epoch: event.parameters_digest for event in events if isinstance(event, EpochEnded)
    }


def test_an_open_loop_has_the_record_and_the_run_that_never_had_the_decision(
    parent: Laboratory, tmp_path: Path
) -> None:
    """With it: the record, bit for bit.

    Without it and what it caused: the run that was never asked any of that. Other orders differ, in
    pairs.
    """
    question = asked(parent.journal(), applied(parent, 8), orders=2, until=None)
    answer = open_loop(question, parent.archive(), quiet(), clock=CLOCK)
    assert answer.proven
    assert answer.dropped[0] == "GERMINATE mlp at second[1], epoch 1, step 8"
    assert [line.split()[0] for line in answer.dropped] == [
        "GERMINATE",
        "arrival",
        "ADVANCE",
        "SET_ALPHA",
    ]
    assert answer.refused == ()
    recorded = digests(parent.journal())
    assert {point.epoch: point.digest for point in answer.with_it[0].points} == {
        epoch: recorded[epoch] for epoch in range(1, 8)
    }

    never = Laboratory(
        tmp_path / "never", recipe(), [one for one in GROWTH if one not in (GRAFT, *CAUSED)]
    )
    never.run()
    without = digests(never.journal())
    assert {point.epoch: point.digest for point in answer.without[0].points} == {
        epoch: without[epoch] for epoch in range(1, 8)
    }

    ends = {branch.digest for branch in (*answer.with_it, *answer.without)}
    assert len(ends) == 4
    first = answer.with_it[0].points[-1].accuracy - answer.without[0].points[-1].accuracy
    second = answer.with_it[1].points[-1].accuracy - answer.without[1].points[-1].accuracy
    assert answer.effect.score.mean == pytest.approx((first + second) / 2)
    assert answer.effect.score.low is not None

    kept = keep(answer, tmp_path / "whatif")
    told = json.loads(kept.read_text())
    assert kept.name == f"{question.decision.decision_id}-open.json"
    assert (told["mode"], told["proven"], told["orders"], len(told["effect"]["curve"])) == (
        "open",
        True,
        2,
        7,
    )
    draw(tmp_path / "effect.svg", answer)
    drawn = (tmp_path / "effect.svg").read_text()
    assert drawn.startswith("<?xml")
    assert drawn.count("<!-- with the decision -->") >= 1
    shown = io.StringIO()
    show(Console(file=shown, width=200), answer)
    assert "Left out with the decision (3):" in shown.getvalue()
    assert "bit for bit" in shown.getvalue()
    assert "(open loop)" in headline(answer)


def test_branches_end_where_they_are_told_to(parent: Laboratory) -> None:
    """--until 4: the branches end with the fourth epoch, and those that were run share their
    batches: one order is one pair without an interval.
    """
    question = asked(parent.journal(), applied(parent, 8), orders=1, until=4)
    answer = open_loop(question, parent.archive(), quiet(), clock=CLOCK)
    assert [point.epoch for point in answer.without[0].points] == [1, 2, 3]
    assert answer.proven
    assert answer.effect.loss.low is None


def test_commands_that_do_not_fit_without_the_decision_are_told(tmp_path: Path) -> None:
    """Without a cull the seed is still in use when the record germinates it again: refused there,
    and told; with it, nothing is.
    """
    commands = (Asked(1, "GERMINATE"), Asked(10, "CULL"), Asked(50, "GERMINATE"))
    laboratory = Laboratory(tmp_path, recipe(gates={"embargo_epochs": 1}), commands)
    laboratory.run()
    answer = open_loop(
        asked(laboratory.journal(), applied(laboratory, 10), orders=1, until=None),
        laboratory.archive(),
        quiet(),
        clock=CLOCK,
    )
    assert answer.proven
    assert len(answer.dropped) == 1
    (refused,) = answer.refused
    assert refused.startswith(
        "GERMINATE mlp at first[0], epoch 6, step 50, without the decision, data order 0: "
        "GERMINATE does not fit"
    )


def test_a_closed_loop_is_made_of_forks(parent: Laboratory) -> None:
    """Both branches begin before the decision.

    The one with it ends like the parent, each under its own name.
    """
    decision = applied(parent, 8)

    def run(cut: Cut, side: Side, order: int) -> tuple[str, Sequence[JournalEvent]]:
        commands = [
            one
            for one in GROWTH
            if one.step >= 8 and (side == "with" or one not in (GRAFT, *CAUSED))
        ]
        fork = parent.fork_lab(f"{side}-{order}", commands)
        beginning = begin(
            parent.archive(), cut, changes=(), offered=(), reason="test", progress=quiet()
        )
        fork.run(fork=beginning)
        return fork.run_id, fork.journal()

    answer = closed_loop(asked(parent.journal(), decision, orders=1, until=None), run, clock=CLOCK)
    assert (answer.mode, answer.proven, answer.dropped) == ("closed", True, ())
    assert [branch.run_id for branch in (*answer.with_it, *answer.without)] == [
        "with-0",
        "without-0",
    ]
    assert answer.without[0].digest != answer.with_it[0].digest


def test_what_cannot_be_asked_is_refused(parent: Laboratory) -> None:
    """No order, and an end before the decision or behind the run's."""
    events, decision = parent.journal(), applied(parent, 8)
    with pytest.raises(UsageError, match=r"^--orders is 1 to 256, .*, and is 0"):
        asked(events, decision, orders=0, until=None)
    for until in (1, 9):
        with pytest.raises(
            UsageError,
            match=r"was applied after 1 epochs, and the run has 8; --until must be after",
        ):
            asked(events, decision, orders=1, until=until)
