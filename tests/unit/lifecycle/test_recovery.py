"""Failures, snapshots and rollbacks in the journal: every field that follows from a command, and
every refusal, in its own sentence.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any

import pytest

from esper.clock import ManualClock
from esper.errors import CorruptError, RejectedError
from esper.events import JournalEvent, Origin, decode
from esper.events.records import (
    AdaptationRejected,
    CheckpointTaken,
    InstabilityDetected,
    KernelFailed,
    LeftOut,
    RestoredSeed,
    RunResumed,
    RunRolledBack,
    SeedTransitioned,
)
from esper.journal.reading import from_file
from esper.journal.replay import fold_journal
from esper.lifecycle import Context, Guardrails, RunState, SeedState, decide, evolve, from_canonical
from esper.lifecycle.commands import (
    Adapt,
    Complete,
    CountLost,
    Move,
    Pause,
    RecordCheckpoint,
    ReportFailure,
    Resume,
    RollBack,
    RunCommand,
    Source,
)
from tests.samples import START

KERNEL = "ab" * 32
FIRST_VERSION = Path(__file__).with_name("first_version.avro")
STAGES_TO = {
    "GERMINATED": (),
    "TRAINING": ("TRAINING",),
    "BLENDING": ("TRAINING", "BLENDING"),
    "SHADOWING": ("TRAINING", "BLENDING", "SHADOWING"),
    "PROBATIONARY": ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"),
    "FOSSILIZED": ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"),
}


class Pen:
    """A run whose commands are carried out at `step`."""

    def __init__(self) -> None:
        self.state = RunState("r")
        self.events: list[JournalEvent] = []
        self.step = 0
        self.do(START)

    def do(self, command: RunCommand) -> tuple[JournalEvent, ...]:
        context = Context(Origin("r", "trainer", "0" * 32, ManualClock()), self.step, Guardrails())
        events = decide(self.state, command, context)
        for event in events:
            self.state = evolve(self.state, event)
        self.events += events
        return events

    def grow(self, stage: str, seed: int = 0) -> SeedState:
        """Bring a seed to a stage."""
        self.do(adapt("GERMINATE", seed=seed, trusted=True, alpha_target=0.5))
        for one in STAGES_TO[stage]:
            self.do(Move(layer="a", seed=seed, to_stage=one, reason="test"))  # type: ignore[arg-type]
        return self.seed(seed)

    def seed(self, index: int = 0) -> SeedState:
        found = self.state.seed("a", index)
        assert found is not None
        return found

    def fail(
        self, consecutive: int = 1, *, phase: str = "FORWARD", seed: int = 0
    ) -> tuple[JournalEvent, ...]:
        return self.do(
            ReportFailure(
                layer="a",
                seed=seed,
                phase=phase,  # type: ignore[arg-type]
                error="it broke.",
                consecutive=consecutive,
            )
        )


def adapt(
    command: str,
    *,
    seed: int = 0,
    trusted: bool = False,
    alpha_target: float = 0.0,
    number: int = 0,
) -> Adapt:
    number = number or 10 * sum(command.encode()) + seed
    return Adapt(
        source=Source(f"00000000-0000-4000-8000-{number:012d}", "decision.tamiyo", 0, 1),
        decision_id="d",
        command=command,  # type: ignore[arg-type]
        layer="a",
        seed=seed,
        kernel_id=KERNEL if command == "GERMINATE" else "",
        family="conv1d",
        alpha=0.5 if command == "SET_ALPHA" else -1.0,
        alpha_target=alpha_target,
        confidence=0.9,
        urgency=0.9,
        trusted=trusted,
    )


def rolled(pen: Pen, restored: RunState, source: Source = Source("")) -> tuple[JournalEvent, ...]:  # noqa: B008  # frozen
    return pen.do(
        RollBack(snapshot_id="t0-s3", restored=restored, reason="It went wrong.", source=source)
    )


@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"])
def test_the_third_failure_in_a_row_opens_the_breaker_and_keeps_the_stage(stage: str) -> None:
    """Two failures change nothing but the count.

    The third puts the seed on its fallback, where it keeps kernel, stage and target.
    """
    pen = Pen()
    before = pen.grow(stage)
    for number in (1, 2, 3):
        pen.step += 1
        (failed,) = pen.fail(number)
        assert isinstance(failed, KernelFailed)
        assert (failed.layer, failed.seed, failed.kernel_id) == ("a", 0, KERNEL)
        assert (failed.phase, failed.error, failed.consecutive_errors, failed.step) == (
            "FORWARD",
            "it broke.",
            number,
            number,
        )
        execution = "ERROR_RECOVERY" if number == 3 else before.execution
        assert pen.seed() == replace(before, errors=number, execution=execution)


def test_a_seed_on_its_fallback_is_culled_or_reset_and_nothing_else() -> None:
    """Tamiyo, an operator and the gates are refused whatever needs the kernel.

    CULL and RESET go through.
    """
    pen = Pen()
    pen.grow("TRAINING")
    pen.fail(3)
    number = 100
    for trusted in (False, True):
        number += 1
        (answer,) = pen.do(adapt("ADVANCE", trusted=trusted, number=number))
        assert isinstance(answer, AdaptationRejected)
        assert answer.reason == (
            "ADVANCE does not fit a seed that is on its fallback, because its kernel "
            "failed: it can be culled or reset."
        )
    with pytest.raises(
        RejectedError,
        match=(
            r"^Seed a\[0\] is on its fallback, because its kernel failed, so it cannot become "
            r"BLENDING\.$"
        ),
    ):
        pen.do(Move(layer="a", seed=0, to_stage="BLENDING", reason="test"))
    culled = Pen()
    culled.grow("PROBATIONARY")
    culled.fail(3)
    for command in ("FOSSILISE", "SET_ALPHA"):
        number += 1
        assert [event.NAME for event in culled.do(adapt(command, trusted=True, number=number))] == [
            "AdaptationRejected"
        ]
    assert culled.seed().execution == "ERROR_RECOVERY"
    culled.do(adapt("CULL", trusted=True, number=900))
    assert (culled.seed().stage, culled.seed().execution, culled.seed().errors) == (
        "CULLED",
        "DORMANT",
        3,
    )
    culled.do(Move(layer="a", seed=0, to_stage="EMBARGOED", reason="test"))
    assert culled.seed().errors == 0
    pen.do(adapt("RESET", trusted=True, number=901))
    assert (pen.seed().stage, pen.seed().errors, pen.seed().kernel_id) == ("DORMANT", 0, "")


def test_the_fold_refuses_a_seed_that_leaves_its_fallback_by_another_way() -> None:
    """A journal in which a seed whose kernel failed goes on to BLENDING was changed."""
    pen = Pen()
    pen.grow("TRAINING")
    unbroken = pen.state
    pen.fail(3)
    context = Context(Origin("r", "trainer", "0" * 32, ManualClock()), 0, Guardrails())
    (move,) = decide(unbroken, Move(layer="a", seed=0, to_stage="BLENDING", reason="test"), context)
    with pytest.raises(
        CorruptError,
        match=(
            r"takes seed a\[0\] to BLENDING, but it is on its fallback, because its kernel "
            r"failed; the journal"
        ),
    ):
        evolve(pen.state, replace(move, sequence=pen.state.sequence))


def test_a_kernel_that_cannot_be_loaded_sends_its_seed_back_at_once() -> None:
    """LOAD counts as three failures; the seed is reset in the same frame, by the failure."""
    pen = Pen()
    pen.grow("GERMINATED")
    failed, reset, dormant = pen.fail(1, phase="LOAD")
    assert isinstance(failed, KernelFailed)
    assert isinstance(reset, SeedTransitioned)
    assert isinstance(dormant, SeedTransitioned)
    assert (failed.consecutive_errors, failed.phase) == (3, "LOAD")
    assert (reset.from_stage, reset.to_stage, reset.reason) == (
        "GERMINATED",
        "RESETTING",
        "kernel failed: it broke.",
    )
    assert (dormant.from_stage, dormant.to_stage, dormant.reason) == (
        "RESETTING",
        "DORMANT",
        "cleared after the failure",
    )
    assert (reset.causation_id, dormant.causation_id) == (failed.event_id, failed.event_id)
    assert pen.seed() == replace(SeedState("a", 0), adapted_epoch=0)


def test_a_fossilised_kernel_that_fails_is_an_instability() -> None:
    """One failure is enough: InstabilityDetected says which kernel and why.

    The seed stays what it is, and the run counts.
    """
    pen = Pen()
    before = pen.grow("FOSSILIZED")
    for count in (1, 2):
        failed, unstable = pen.fail(count)
        assert isinstance(unstable, InstabilityDetected)
        assert (unstable.layer, unstable.seed, unstable.kernel_id) == ("a", 0, KERNEL)
        assert (unstable.metric, unstable.value, unstable.threshold) == (
            "kernel_failures",
            float(count),
            0.0,
        )
        assert unstable.reason == "The fossilised kernel of a[0] failed: it broke."
        assert unstable.causation_id == failed.event_id
        assert pen.state.instabilities == count
        assert pen.seed() == replace(before, errors=count)


def test_only_a_seed_with_a_kernel_can_fail() -> None:
    """A failure of nothing is the trainer's own mistake."""
    pen = Pen()
    with pytest.raises(RejectedError, match=r"^Seed a\[0\] holds no kernel that could fail\.$"):
        pen.fail()
    with pytest.raises(RejectedError, match=r"^Seed a\[7\] holds no kernel that could fail\.$"):
        pen.fail(seed=7)


def test_a_snapshot_is_told_as_it_was_taken() -> None:
    """CheckpointTaken has every field of the command, and answers the request that asked for it,
    once.
    """
    pen = Pen()
    command = RecordCheckpoint(
        snapshot_id="t0-s3",
        address="manifests/ab.json",
        sha256="ab" * 32,
        parent="t0-s0",
        reason="requested",
        at_timeline=0,
        at_sequence=1,
        at_epoch=0,
        at_step=3,
        tensors=4,
        size_bytes=5,
        stored_bytes=6,
        stall_us=7,
        duration_us=8,
        parameters_digest="cd" * 32,
        source=Source("00000000-0000-4000-8000-000000000009", "control.tolaria.commands", 2, 11),
    )
    (taken,) = pen.do(command)
    assert isinstance(taken, CheckpointTaken)
    fields = asdict(command)
    source = fields.pop("source")
    assert {name: getattr(taken, name) for name in fields} == fields
    assert (
        taken.command_id,
        taken.source_topic,
        taken.source_partition,
        taken.source_offset,
    ) == tuple(source.values())
    assert pen.state.commands == (source["command_id"],)
    assert pen.state.position("control.tolaria.commands", 2) == 11
    assert pen.do(command) == ()


def test_a_rollback_keeps_what_is_finished_and_resets_the_rest() -> None:
    """RunRolledBack has the snapshot's seeds.

    What is under way there goes through RESETTING to DORMANT, caused by it, in the new timeline.
    """
    pen = Pen()
    pen.grow("FOSSILIZED", 0)
    pen.grow("TRAINING", 1)
    pen.step = 3
    pen.do(CountLost(topic="telemetry.training.step", lost=2))
    restored = pen.state
    pen.step = 9
    pen.fail(1, seed=0)
    source = Source("00000000-0000-4000-8000-000000000009", "control.tolaria.commands", 2, 11)
    event, reset, dormant = rolled(pen, restored, source)
    assert isinstance(event, RunRolledBack)
    assert isinstance(reset, SeedTransitioned)
    assert isinstance(dormant, SeedTransitioned)
    assert (event.from_timeline, event.from_step, event.timeline, event.step, event.epoch) == (
        0,
        9,
        1,
        3,
        0,
    )
    assert (event.snapshot_id, event.reason, event.command_id) == (
        "t0-s3",
        "It went wrong.",
        source.command_id,
    )
    assert (event.source_topic, event.source_partition, event.source_offset) == (
        "control.tolaria.commands",
        2,
        11,
    )
    assert event.seeds == tuple(RestoredSeed(**asdict(seed)) for seed in restored.seeds)
    assert (event.adapted_epoch, event.adaptations) == (0, 2)
    assert [(one.seed, one.from_stage, one.to_stage, one.reason) for one in (reset, dormant)] == [
        (1, "TRAINING", "RESETTING", "the run was rolled back"),
        (1, "RESETTING", "DORMANT", "cleared by the rollback"),
    ]
    assert {(one.timeline, one.step, one.causation_id) for one in (reset, dormant)} == {
        (1, 3, event.event_id)
    }
    assert pen.seed(0) == restored.seeds[0]
    assert (pen.seed(1).stage, pen.seed(1).kernel_id, pen.seed(1).adapted_epoch) == (
        "DORMANT",
        "",
        0,
    )
    assert pen.state.instabilities == 1
    assert pen.state.lost == restored.lost
    assert pen.state.position("control.tolaria.commands", 2) == 11
    pen.step = 3
    (again,) = pen.do(CountLost(topic="telemetry.training.step", lost=1))
    assert (again.timeline, again.step) == (1, 3)


def test_a_rollback_leaves_no_seed_between_two_stages() -> None:
    """A seed that the snapshot has in RESETTING is DORMANT after it, and one in
    ERROR_RECOVERY too.
    """
    pen = Pen()
    pen.grow("TRAINING", 0)
    pen.grow("BLENDING", 1)
    pen.fail(3, seed=1)
    pen.do(Move(layer="a", seed=0, to_stage="RESETTING", reason="test"))
    rolled(pen, pen.state)
    assert [(seed.stage, seed.execution, seed.errors) for seed in pen.state.seeds] == [
        ("DORMANT", "DORMANT", 0)
    ] * 2


def test_a_rollback_leads_to_an_earlier_state_of_the_same_run() -> None:
    """A snapshot of a later step, a later epoch, another run or other seeds is refused, and nothing
    is written.
    """
    pen = Pen()
    pen.step = 5
    pen.do(CountLost(topic="telemetry.training.step", lost=1))
    state = pen.state
    others = (
        replace(state, step=6),
        replace(state, epoch=1),
        replace(state, run_id="q"),
        replace(state, seeds=state.seeds[:1]),
    )
    for other in others:
        with pytest.raises(
            RejectedError,
            match=(
                rf"^Snapshot t0-s3 holds run {other.run_id} at epoch {other.epoch}, step "
                rf"{other.step}, which is"
            ),
        ):
            rolled(pen, other)
    assert pen.state == state


@pytest.mark.parametrize(
    ("doctored", "sentence"),
    [
        ({"from_timeline": 1}, "leaves timeline 1, step 9, but the run is in timeline 0, step 9"),
        ({"from_step": 8}, "leaves timeline 0, step 8, but the run is in timeline 0, step 9"),
        ({"timeline": 0}, "to timeline 0, epoch 0, step 3, which is not back"),
        ({"timeline": 2}, "to timeline 2, epoch 0, step 3, which is not back"),
        (
            {"step": 10},
            "from timeline 0, epoch 0, step 9, to timeline 1, epoch 0, step 10, which is not back",
        ),
        ({"epoch": 1}, "to timeline 1, epoch 1, step 3, which is not back"),
        ({"seeds": ()}, "restores other seeds than the run has"),
        ({"seeds": "reversed"}, "restores other seeds than the run has"),
        ({"sequence": 5}, "lacks event"),
        ({"run_id": "q"}, "belongs to run q, not to run r"),
    ],
)
def test_a_doctored_rollback_is_refused(doctored: dict[str, object], sentence: str) -> None:
    """Whatever of a RunRolledBack does not follow from the run before it is named."""
    pen = Pen()
    pen.step = 3
    pen.do(CountLost(topic="telemetry.training.step", lost=1))
    restored = pen.state
    pen.step = 9
    pen.do(CountLost(topic="telemetry.training.step", lost=1))
    before = pen.state
    (event,) = rolled(pen, restored)
    assert isinstance(event, RunRolledBack)
    changes = (
        {**doctored, "seeds": event.seeds[::-1]}
        if doctored.get("seeds") == "reversed"
        else doctored
    )
    with pytest.raises(CorruptError) as caught:
        evolve(before, replace(event, **changes))  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert evolve(before, event) == pen.state


def test_nothing_follows_the_end() -> None:
    """After RunCompleted neither a command nor an event is taken."""
    pen = Pen()
    context = Context(Origin("r", "trainer", "0" * 32, ManualClock()), 0, Guardrails())
    (lost,) = decide(pen.state, CountLost(topic="telemetry.training.step", lost=1), context)
    pen.do(
        Complete(
            outcome="FINISHED", accuracy=0.5, loss=0.5, parameters=20, digest="", model_sha256=""
        )
    )
    with pytest.raises(
        RejectedError, match=r"^Run r has ended \(COMPLETED\); nothing can follow\.$"
    ):
        pen.do(CountLost(topic="telemetry.training.step", lost=1))
    with pytest.raises(
        CorruptError,
        match=(
            r"^Event 2 \(TelemetryLost\) of run r comes after the run had ended \(COMPLETED\); "
            r"the journal"
        ),
    ):
        evolve(pen.state, replace(lost, sequence=2))


def test_a_resumption_names_its_snapshot() -> None:
    """RunResumed has incarnation, snapshot and step, and the run is RUNNING in its new
    incarnation.
    """
    pen = Pen()
    (event,) = pen.do(Resume(reason="again", incarnation=4, snapshot_id="t0-s3", restored_step=3))
    assert isinstance(event, RunResumed)
    assert (
        event.incarnation,
        event.snapshot_id,
        event.restored_step,
        event.reason,
        event.command_id,
    ) == (4, "t0-s3", 3, "again", "")
    assert (pen.state.incarnation, pen.state.status) == (4, "RUNNING")


def test_a_journal_of_the_first_version_still_proves_its_digests() -> None:
    """The first journal of this form of digests folds, its epoch digest agrees, and what it does
    not say does not stand in its text.
    """
    messages = list(from_file(FIRST_VERSION))
    report = fold_journal("old", messages, None, clock=ManualClock())
    assert (report.events, report.epochs, report.state.status) == (11, 1, "COMPLETED")
    assert (
        report.state.digest() == "4e3bb8efd7ad373402a08889bf4fbd208205ba9b8915178f1f9699dca5c3084f"
    )
    assert "instabilities" not in report.state.canonical()
    assert from_canonical(report.state.canonical()) == report.state
    events = [decode(value) for value in messages]
    assert [event.NAME for event in events].count("KernelFailed") == 3


def test_a_state_that_was_unstable_says_so() -> None:
    """`instabilities` stands in the canonical text once there are any, and comes back."""
    pen = Pen()
    quiet = pen.state
    pen.grow("FOSSILIZED")
    pen.fail()
    assert '"instabilities":1' in pen.state.canonical()
    assert from_canonical(pen.state.canonical()) == pen.state
    assert quiet.digest() != replace(quiet, instabilities=1).digest()


def test_every_field_stands_in_the_digest() -> None:
    """Two states that differ in any field, or in any field of a seed, have different digests."""
    pen = Pen()
    pen.grow("BLENDING")
    state = pen.state
    names = [one.name for one in fields(state) if one.name not in ("seeds", "commands")]
    first, *rest = state.seeds
    seeds = [
        replace(first, **{one.name: changed(getattr(first, one.name))}) for one in fields(first)
    ]
    others = [replace(state, **{name: changed(getattr(state, name))}) for name in names]
    others += [replace(state, seeds=(seed, *rest)) for seed in seeds] + [
        replace(state, seeds=(*rest, first))
    ]
    assert len({one.digest() for one in (state, *others)}) == len(others) + 1
    assert state.digest() == from_canonical(state.canonical()).digest()


def test_the_digest_is_over_canonical_json() -> None:
    """Both lines are what a JSON encoder gives for them, whatever stands in the texts.

    What came later is silent where it says nothing new.
    """
    pen = Pen()
    pen.grow("BLENDING")
    odd = replace(
        pen.state,
        run_id='ü"\\',
        positions=(("b", 1, 2), ("a", 0, 3)),
        lost=(("t", 2), ("é", 1)),
        instabilities=2,
        left_out=(
            LeftOut(
                run_id="r",
                decision_id="d",
                command="CULL",
                layer="l",
                seed=1,
                kernel_id="",
                epoch=3,
            ),
        ),
    )
    for state in (RunState("new"), pen.state, odd):
        plain = {
            name: value
            for name, value in asdict(state).items()
            if name not in ("seeds", "commands")
        }
        plain |= {"positions": sorted(state.positions), "lost": sorted(state.lost)}
        silent = {"instabilities": 0, "left_out": ()}
        told = {
            name: value
            for name, value in plain.items()
            if name not in silent or value != silent[name]
        }
        seeds = [astuple(seed) for seed in state.seeds]
        lines = [
            json.dumps(value, sort_keys=True, separators=(",", ":")) for value in (told, seeds)
        ]
        assert state.digest() == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, tuple):
        return (*value, ("x", 1, 2))
    return f"{value}x" if isinstance(value, str) else value + 1


def test_the_commands_stand_in_the_digest_by_their_chain() -> None:
    """`heard` is the SHA-256 of what it was and the id of each command, so that one left out long
    ago still shows.
    """
    pen, head = Pen(), ""
    for number in range(3):
        pen.do(
            Pause(reason="x", source=Source(f"id-{number}", "control.tolaria.commands", 0, number))
        )
        pen.do(Resume(reason="x", incarnation=0))
        head = hashlib.sha256(f"{head}id-{number}".encode()).hexdigest()
    assert pen.state.commands == ("id-0", "id-1", "id-2")
    assert pen.state.heard == head


def test_a_changed_seed_has_its_own_text() -> None:
    """A seed's text is JSON of its values, kept with the seed and not handed on to the one that it
    becomes.
    """
    seed = SeedState('a"\n', 0)
    first = seed.text
    grown = seed.changed(stage="GERMINATED", alpha=0.5)
    assert grown == replace(seed, stage="GERMINATED", alpha=0.5)
    assert (
        json.loads(grown.text) == list(astuple(grown)) != json.loads(first) == list(astuple(seed))
    )
    assert grown.changed(stage="DORMANT", alpha=0.0).text == first
