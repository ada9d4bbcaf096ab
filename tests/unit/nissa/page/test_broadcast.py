"""Claims about what the page hears: nothing twice, nothing lost, and what is sent together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.events.records import TrainingStep
from esper.lifecycle.overview import RunOverview
from esper_processors.nissa.page.broadcast import KEPT, KEPT_VALUES, Broadcast, joined
from tests.unit.nissa.journal import Run


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def step(
    run: Run, number: int, *, loss: float = 1.0, metrics: dict[str, float] | None = None
) -> TrainingStep:
    return replace(run.step(number, loss=loss), metrics=metrics or {})


def said(broadcast: Broadcast, number: int, run: str) -> list[tuple[int, str, Any]]:
    told, _, missed = broadcast.since(number, run)
    assert not missed
    return [(place, kind, dict(one)) for place, kind, one in joined(told)]


def test_steps_in_a_row_are_sent_as_columns_with_the_last_one_s_number(clock: ManualClock) -> None:
    run, broadcast = Run("a"), Broadcast(clock)
    for number in range(1, 4):
        broadcast.take(
            step(run, number, loss=1 / number, metrics={"f1": 0.5} if number > 1 else {}), None
        )
    broadcast.take(run.epoch_ended(validation_accuracy=0.5), None)
    broadcast.take(step(run, 4), None)
    (first, kind, columns), (_, epoch, _), (last, _, later) = said(broadcast, 0, "a")
    assert (first, kind, epoch, last) == (2, "steps", "epoch", 4)
    assert columns["step"] == [1, 2, 3]
    assert columns["training loss"] == [1, 1 / 2, 1 / 3]
    assert columns["f1"] == [None, 0.5, 0.5]
    assert later["step"] == [4]


def test_a_reader_hears_its_run_and_the_states_of_all(clock: ManualClock) -> None:
    broadcast = Broadcast(clock)
    for run_id in ("a", "b"):
        run = Run(run_id)
        broadcast.take(step(run, 1), None)
        broadcast.take(run.started(), RunOverview(run_id=run_id))
    assert [(kind, one.get("run_id")) for _, kind, one in said(broadcast, 0, "a")] == [
        ("steps", None),
        ("run", "a"),
        ("run", "b"),
    ]
    assert [kind for _, kind, _ in said(broadcast, 0, "")] == ["run", "run"]


def test_of_a_run_s_states_the_last_is_sent(clock: ManualClock) -> None:
    run, broadcast = Run("a"), Broadcast(clock)
    for epoch in range(3):
        broadcast.take(run.started(), RunOverview(run_id="a", epoch=epoch))
    ((number, _, state),) = said(broadcast, 0, "")
    assert (number, state["epochs"]) == (2, 2)


def test_who_comes_back_goes_on_behind_the_last_message(clock: ManualClock) -> None:
    run, broadcast = Run("a"), Broadcast(clock)
    for number in range(5):
        broadcast.take(step(run, number), None)
    assert broadcast.begin("a", broadcast.identity(2)) == (True, 3)
    ((_, _, columns),) = said(broadcast, 3, "a")
    assert columns["step"] == [3, 4]


@pytest.mark.parametrize("last", ["", "x", "1.2", ".", "9" * 400, "-1.-1"])
def test_who_brings_no_number_of_this_life_is_told_so(clock: ManualClock, last: str) -> None:
    """And begins with what may not have reached the history yet."""
    run, broadcast = Run("a"), Broadcast(clock)
    broadcast.take(step(run, 1), None)
    clock.advance(60)
    broadcast.take(step(run, 2), None)
    assert broadcast.begin("a", last) == (False, 1)
    assert broadcast.begin("other", last) == (False, 2)


def test_who_was_away_too_long_is_told_so(clock: ManualClock) -> None:
    run, broadcast = Run("a"), Broadcast(clock)
    for number in range(KEPT + 10):
        broadcast.take(step(run, number), None)
    assert broadcast.begin("a", broadcast.identity(5))[0] is False
    assert broadcast.begin("a", broadcast.identity(9)) == (True, 10)
    assert broadcast.begin("a", broadcast.identity(KEPT + 10))[0] is False  # never told yet


def test_who_reads_too_slowly_is_told_so(clock: ManualClock) -> None:
    run, broadcast = Run("a"), Broadcast(clock)
    for number in range(KEPT + 3):
        broadcast.take(step(run, number), None)
    assert broadcast.since(2, "a")[2]
    told, following, missed = broadcast.since(3, "a")
    assert (len(told), following, missed) == (KEPT, KEPT + 3, False)


def test_a_message_of_another_life_is_not_taken_for_one_of_this(clock: ManualClock) -> None:
    run, before = Run("a"), Broadcast(clock)
    before.take(step(run, 1), None)
    clock.advance(1)
    assert Broadcast(clock).begin("a", before.identity(0))[0] is False


def test_steps_with_many_metrics_are_kept_for_a_shorter_while(clock: ManualClock) -> None:
    """So that what is kept for pages has a bound in memory; who missed some is told."""
    run, broadcast = Run("a"), Broadcast(clock)
    many = {f"m{number}": 0.5 for number in range(KEPT_VALUES // 10)}
    for number in range(1, 26):
        broadcast.take(step(run, number, metrics=many), None)
    told, following, missed = broadcast.since(0, "a")
    assert (len(told), following, missed) == (10, 25, True)
    assert broadcast.begin("a", broadcast.identity(3))[0] is False
    larger = many | {f"n{number}": 0.5 for number in range(KEPT_VALUES)}
    broadcast.take(step(run, 26, metrics=larger), None)
    assert broadcast.since(25, "a") == ([], 26, True)
    assert broadcast.since(26, "a") == ([], 26, False)
