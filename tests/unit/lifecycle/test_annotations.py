"""What operators say of runs: the last word counts, and what cannot be said is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from esper.clock import ManualClock
from esper.errors import UsageError
from esper.events import Event, decode, encode
from esper.events.records import RunAnnotated
from esper.lifecycle.annotations import NOTHING, RunNotes, fold, notes_of
from esper.oona.durable import run_notes
from tests.unit.lifecycle.test_recovery import Pen

WHO = "somebody"


def clock(at: int = 1) -> ManualClock:
    return ManualClock(at)


def test_the_last_word_counts() -> None:
    """Tags add up and are taken away; name, note and baseline are replaced; runs are apart."""
    events: list[Event] = [
        run_notes.tagged("a", ["x", "y"], [], actor=WHO, clock=clock()),
        run_notes.tagged("a", ["z"], ["x", "unknown"], actor=WHO, clock=clock(2)),
        run_notes.noted("a", "first", actor=WHO, clock=clock(3)),
        run_notes.noted("a", "second", actor=WHO, clock=clock(4)),
        run_notes.renamed("a", "Best so far", actor=WHO, clock=clock(5)),
        run_notes.baseline("a", on=True, actor=WHO, clock=clock(6)),
        run_notes.noted("b", "other", actor=WHO, clock=clock(7)),
    ]
    notes = notes_of(events)
    assert notes["a"] == RunNotes("Best so far", "second", ("y", "z"), baseline=True)
    assert notes["b"] == RunNotes(note="other")
    after = notes_of(
        [
            *events,
            run_notes.noted("a", "", actor=WHO, clock=clock(8)),
            run_notes.renamed("a", "", actor=WHO, clock=clock(9)),
            run_notes.baseline("a", on=False, actor=WHO, clock=clock(10)),
        ]
    )
    assert after["a"] == RunNotes(tags=("y", "z"))


def test_a_deletion_is_one_event_however_often_it_is_asked_for() -> None:
    """The same id at any time, and the first moment stays."""
    figures = {"snapshots": 1, "files": 2, "file_bytes": 3, "actor": WHO}
    first, second = (run_notes.deleted("a", clock=clock(at), **figures) for at in (5, 9))  # type: ignore[arg-type]
    assert first.event_id == second.event_id
    assert fold(fold(NOTHING, first), second).deleted_at == 5


def test_events_of_a_journal_say_nothing_of_notes() -> None:
    """They are folded beside each other."""
    assert all(fold(NOTHING, event) is NOTHING for event in Pen().events)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: run_notes.noted("a", "x" * 2_001, actor=WHO, clock=clock()), "2,000 characters"),
        (lambda: run_notes.noted("a", "a\nb", actor=WHO, clock=clock()), "one line"),
        (lambda: run_notes.noted("a", "\x1b[2J", actor=WHO, clock=clock()), "one line"),
        (lambda: run_notes.noted("a", "a\u202eb", actor=WHO, clock=clock()), "one line"),
        (lambda: run_notes.noted("a", "\ud800", actor=WHO, clock=clock()), "one line"),
        (lambda: run_notes.renamed("a", "x" * 121, actor=WHO, clock=clock()), "120 characters"),
        (lambda: run_notes.renamed("a", "a\tb", actor=WHO, clock=clock()), "one line"),
        (lambda: run_notes.tagged("a", [], [], actor=WHO, clock=clock()), "Name a tag"),
        (lambda: run_notes.tagged("a", ["x y"], [], actor=WHO, clock=clock()), "no tag"),
        (lambda: run_notes.tagged("a", ["x'; --"], [], actor=WHO, clock=clock()), "no tag"),
        (lambda: run_notes.tagged("a", [], ["-x"], actor=WHO, clock=clock()), "no tag"),
        (lambda: run_notes.tagged("a", ["x" * 65], [], actor=WHO, clock=clock()), "no tag"),
        (lambda: run_notes.tagged("a", [""], [], actor=WHO, clock=clock()), "no tag"),
        (lambda: run_notes.tagged("a", ["x"], ["x"], actor=WHO, clock=clock()), "decide"),
        (
            lambda: run_notes.tagged(
                "a", [f"t{number}" for number in range(33)], [], actor=WHO, clock=clock()
            ),
            "At most 32 tags",
        ),
    ],
)
def test_what_cannot_be_said_is_refused(make: Callable[[], RunAnnotated], said: str) -> None:
    """Before it is sent: limits of length, control characters, what turns text around."""
    with pytest.raises(UsageError, match=said):
        make()


def test_text_of_any_script_and_quotes_comes_back_as_it_was() -> None:
    """What is allowed survives the wire."""
    text = 'größer, 更好; it\'s "fine" -- DROP TABLE runs {x} %s'
    event = run_notes.noted("a", text, actor=WHO, clock=clock())
    back = decode(encode(event).value)
    assert isinstance(back, RunAnnotated)
    assert back.text == text
    assert back == replace(event)
