"""Claims about what the control API knows of a run."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esper.clock import ManualClock
from esper.events import Event, Origin
from esper.events.records import PauseRequested, RunPaused, RunResumed
from esper.tolaria.control.requests import request, told
from esper.tolaria.control.run_status import KEPT_ANSWERS, RunStatus, fold
from tests.unit.nissa.journal import Run
from tests.waiting import PATIENCE_S

CLOCK = ManualClock()


def paused(run: Run, command_id: str) -> RunPaused:
    """The run stands still as a request asked."""
    source: dict[str, Any] = {
        "source_topic": PauseRequested.TOPIC,
        "source_partition": 0,
        "source_offset": 3,
    }
    return RunPaused(
        **run._journal(f"paused/{command_id}"), reason="a look", command_id=command_id, **source
    )


def resumed(run: Run, command_id: str) -> RunResumed:
    """And goes on."""
    source: dict[str, Any] = {
        "source_topic": PauseRequested.TOPIC,
        "source_partition": 0,
        "source_offset": 4,
    }
    return RunResumed(
        **run._journal(f"resumed/{command_id}"),
        incarnation=0,
        reason="looked",
        command_id=command_id,
        **source,
    )


def story(run: Run) -> list[Event]:
    """A run that grows, is paused and resumed, takes snapshots, turns unstable, goes
    back and ends.
    """
    events: list[Event] = [
        run.started(),
        *run.germinated("0", 1),
        run.epoch_ended(validation_accuracy=0.4),
        run.checkpoint(40),
    ]
    events += [
        paused(run, "p"),
        resumed(run, "q"),
        run.epoch_ended(validation_accuracy=0.5),
        run.checkpoint(80),
    ]
    return [
        *events,
        run.unstable(),
        run.rolled_back(1),
        run.epoch_ended(validation_accuracy=0.6),
        run.completed(accuracy=0.7),
    ]


def after(events: list[Event]) -> RunStatus:
    """The status after these events."""
    status = RunStatus(run_id="r")
    for event in events:
        status = fold(status, event)
    return status


def test_the_status_says_what_the_journal_says() -> None:
    """Status, epoch, seeds by stage, timeline, snapshots and the answers to requests are those of
    the journal.
    """
    events = story(Run("r", CLOCK))
    paused_at = after(events[:6])
    assert (paused_at.status, paused_at.reason, paused_at.epoch) == ("PAUSED", "a look", 1)
    assert paused_at.stages() == {"DORMANT": 7, "GERMINATED": 1}
    end = after(events)
    assert (end.status, end.accuracy, end.timeline, end.rollbacks, end.validation_accuracy) == (
        "COMPLETED",
        0.7,
        1,
        1,
        0.6,
    )
    assert [one.snapshot_id for one in end.checkpoints] == ["0-40", "0-80"]
    assert end.stages() == {"DORMANT": 7, "FOSSILIZED": 1}
    assert {command_id: answer.event for command_id, answer in end.answers.items()} == {
        "p": "RunPaused",
        "q": "RunResumed",
    }
    assert end.ended


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), max_size=8))
def test_redelivery_changes_nothing(steps: list[tuple[int, int]]) -> None:
    """Read again from an earlier place any number of times, the status is that of the plain
    journal.
    """
    events = story(Run("r", CLOCK))
    delivered: list[Event] = []
    at = 0
    for forward, back in steps:
        delivered += events[at : at + forward]
        at = max(0, min(at + forward, len(events)) - back)
    assert after([*delivered, *events[at:]]) == after(events)


def test_the_newest_answers_are_kept() -> None:
    """Of more requests than are kept the oldest answers go.

    Tamiyo's own decisions are no answers to requests.
    """
    run = Run("r", CLOCK)
    status = after(
        [
            run.started(),
            *run.germinated("0", 1),
            *(paused(run, f"p{number}") for number in range(KEPT_ANSWERS + 5)),
        ]
    )
    assert len(status.answers) == KEPT_ANSWERS
    assert next(iter(status.answers)) == "p5"


def test_a_request_is_pending_answered_or_expired() -> None:
    """A request without an answer is PENDING until it is void and EXPIRED then.

    With one it is ANSWERED, saying by what.
    """
    clock = ManualClock()
    asked = request("pause", "r", reason="a look", expires_s=60, actor="ada", clock=clock)
    run = Run("r", clock)
    status = after([run.started()])
    assert told(asked, status, clock.now_us())["status"] == "PENDING"
    answered = told(asked, fold(status, paused(run, asked.event_id)), clock.now_us())
    assert (answered["status"], answered["answer"]["event"]) == ("ANSWERED", "RunPaused")
    clock.advance(61)
    assert told(asked, status, clock.now_us())["status"] == "EXPIRED"
    assert (
        asked.event_id
        != request(
            "pause", "r", reason="a look", expires_s=60, actor="bob", clock=ManualClock()
        ).event_id
    )
    assert asked.run_id == Origin("r", "", "", clock).run_id


def test_the_process_imports_no_torch() -> None:
    """Everything that the control process imports leaves torch, numpy and Faust outside: it has to
    be small.
    """
    code = (
        "import sys, esper.tolaria.control.__main__; print([one for one in ('torch', 'numpy', "
        "'faust') if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == "[]"
