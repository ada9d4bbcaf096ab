"""Claims about attempts to adapt."""

from __future__ import annotations

from esper.clock import ManualClock
from esper.events import Event
from esper_processors.nissa import attempts
from esper_processors.nissa.attempts import KEPT, Attempt, fold, page
from esper_processors.nissa.rows import RunRows
from tests.unit.nissa.journal import Run


def told(events: list[Event]) -> dict[str, Attempt]:
    """The attempts after these events."""
    found: attempts.Attempts = {}
    for event in events:
        found = fold(found, event)
    return dict(found)


def test_an_attempt_is_whole_in_whatever_order_its_topics_are_read() -> None:
    """Review, answer of the trainer and outcome give the same decision, result and reward in every
    order in which they can come, told once or twice.

    An outcome comes after its review: they share a partition.
    """
    clock = ManualClock()
    run = Run("r", clock)
    review = run.reviewed("d")
    clock.advance(1)
    answer = run.answered("d")
    clock.advance(1)
    outcome = run.outcome("d")
    orders: list[list[Event]] = [
        [review, answer, outcome],
        [answer, review, outcome],
        [review, outcome, answer],
    ]
    seen = [told([*order, *order]) for order in orders]
    assert seen[0] == seen[1] == seen[2]
    attempt = seen[0]["d"]
    assert attempt.at == review.occurred_at
    assert (attempt.result, attempt.verdict, attempt.reward) == ("APPLIED", "FOSSILIZED", 1.0)
    assert (attempt.confidence, attempt.urgency, attempt.family, attempt.kernel_id) == (
        0.9,
        0.8,
        "conv1d",
        "k",
    )
    assert attempt.as_json()["evidence"] == {"strategy": "DIVERSIFY"}


def test_a_refusal_keeps_the_reason_and_what_the_decision_said() -> None:
    """A rejected attempt has the trainer's reason, and confidence and urgency from the review,
    which the refusal does not carry.
    """
    run = Run("r", ManualClock())
    attempt = told([run.reviewed("d"), run.answered("d", refused="Seed 0[1] rests.")])["d"]
    assert (attempt.result, attempt.reason, attempt.confidence, attempt.urgency) == (
        "REJECTED",
        "Seed 0[1] rests.",
        0.9,
        0.8,
    )
    assert attempt.source == "tamiyo"


def test_a_command_of_a_person_is_its_own_decision() -> None:
    """What came by control.kasmina.commands is shown as an operator's."""
    run = Run("r", ManualClock())
    attempt = told([run.answered("c", topic="control.kasmina.commands")])["c"]
    assert (attempt.source, attempt.result, attempt.command_id) == ("operator", "APPLIED", "c")


def test_what_changes_nothing_gives_the_same_mapping_and_the_newest_are_kept() -> None:
    """A repeated event costs no write; of more than the limit the oldest go.

    Bytes and back is the identity.
    """
    clock = ManualClock()
    run = Run("r", clock)
    known = fold({}, run.reviewed("d"))
    assert fold(known, run.reviewed("d")) is known
    many: attempts.Attempts = {}
    for number in range(KEPT + 10):
        clock.advance(1)
        many = fold(many, run.reviewed(f"d{number}"))
    assert len(many) == KEPT
    assert "d9" not in many
    assert "d10" in many
    assert attempts.decode(attempts.encode(many)) == many


def test_pages_give_every_attempt_once_newest_first() -> None:
    """Following the cursor through pages of three gives all ten in order, although several share a
    time.
    """
    run = Run("r", ManualClock())
    all_of_them = list(told([run.reviewed(*(f"d{number}" for number in range(10)))]).values())
    shown: list[str] = []
    cursor: tuple[int, str] | None = None
    for _ in range(4):
        found, cursor = page(all_of_them, limit=3, before=cursor)
        shown += [attempt.decision_id for attempt in found]
    assert cursor is None
    assert shown == sorted((attempt.decision_id for attempt in all_of_them), reverse=True)


def test_rows_keep_attempts_by_run_and_lose_them_with_the_run() -> None:
    """Attempts are found by run.

    When more runs begin than are kept, the attempts of the first go with it.
    """
    clock = ManualClock()
    table: dict[bytes, bytes] = {}
    rows = RunRows(table)
    for number in range(52):
        clock.advance(1)
        run = Run(f"run-{number}", clock)
        rows.take("system.events.run", run.started(), 0)
        rows.take("decision.tamiyo", run.reviewed(f"d{number}"), 0)
    clock.advance(1)
    rows.take("system.events.run", Run("last", clock).started(), 0)
    assert len(rows.runs()) == 50
    assert rows.attempts("run-0") == []
    assert [attempt.decision_id for attempt in rows.attempts("run-51")] == ["d51"]
    assert len(rows.attempts()) == 49
    assert not any(b"run-0" in key for key in table)
