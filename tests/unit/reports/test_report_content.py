"""What a report says follows from events alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from esper.events import Event, JournalEvent
from esper.events.geometry import Geometry
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    AuditRecorded,
    CounterfactualMeasured,
    EpochEnded,
    EpochReviewed,
    KernelPublished,
    LayerInventory,
    PauseRequested,
    RestoredSeed,
    ReviewedCommand,
    RunAnnotated,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunRolledBack,
    RunStarted,
    SeedTransitioned,
)
from esper.reports.checks import fold_check
from esper.reports.compute import batch_size, compute_facts, host_forward
from esper.reports.content import run_report
from esper.reports.decision_trail import OTHERS, TAMIYO
from esper.reports.duties import duties
from esper.reports.layout import MISSING, sections, shown
from esper.reports.material import EXPORT, CheckResult, KernelCopy, Material
from esper.reports.moments import moment
from tests.forging import any_event

RUN = "r"
COPY = KernelCopy("aa", 10, "mlp", "b", '{"nodes":[]}', 8, 16)
CONFIG = {"model": "m:m", "task": "classification", "run": {"batch_size": 10}}


def started(**values: Any) -> RunStarted:
    """The first event of a run of one layer with 4 x 5 = 20 parameters and 10 beside it."""
    layer = LayerInventory(
        name="a", kind="Linear", in_features=4, out_features=4, parameters=20, chunks=(4,)
    )
    given = {"config": json.dumps(CONFIG), "layers": (layer,), "parameters": 30, "versions": "{}"}
    event: RunStarted = any_event(RunStarted, run_id=RUN, **{**given, **values})
    return event


def journal(*events: JournalEvent) -> tuple[JournalEvent, ...]:
    """Events as one journal: numbered."""
    return tuple(replace(event, sequence=number) for number, event in enumerate(events))


def moved(step: int, stage: str, *, decision: str = "d1", **values: Any) -> SeedTransitioned:
    """A seed that enters a stage."""
    event: SeedTransitioned = any_event(
        SeedTransitioned,
        run_id=RUN,
        step=step,
        layer="a",
        to_stage=stage,
        kernel_id="k",
        family="mlp",
        decision_id=decision,
        **values,
    )
    return event


def at(kind: type[Any], step: int, **values: Any) -> Any:
    """An event of the run at a step."""
    return any_event(kind, run_id=RUN, step=step, **values)


def reported(*events: JournalEvent, **values: Any) -> Any:
    """The report of these events."""
    return run_report(Material(RUN, EXPORT, journal(*events), **values))


def test_steps_of_left_timelines_and_grafts_count_for_the_compute() -> None:
    """Claim: 6 operations a parameter and sample, kernels from graft to end, with the steps that a
    rollback left, and with those of a kernel that the restored state still has.
    """
    kept = RestoredSeed(
        layer="a",
        seed=0,
        stage="FOSSILIZED",
        execution="FOSSILIZED",
        kernel_id="k",
        family="mlp",
        decision_id="d1",
        alpha=1.0,
        alpha_target=1.0,
        stage_step=20,
        stage_epoch=0,
        adapted_epoch=0,
        errors=0,
    )
    report = reported(
        started(),
        moved(10, "TRAINING"),
        moved(20, "FOSSILIZED"),
        at(RunRolledBack, 30, timeline=1, from_step=50, seeds=(kept,)),
        at(RunCompleted, 60, timeline=1),
        kernels={"k": COPY},
    )
    training = report.training
    assert (training.steps, training.steps_executed, training.samples) == (60, 80, 800)
    (kernel,) = report.kernels
    assert [(one.from_step, one.to_step) for one in kernel.grafts] == [(10, 50), (30, 60)]
    compute = training.compute
    assert compute.host_flops == 6 * 30 * 800
    assert compute.kernel_flops == 3 * 16 * (40 + 30) * 10
    assert compute.total_flops == compute.host_flops + compute.kernel_flops
    # what the restored state had is no mark of its own
    assert [(mark.stage, mark.epoch) for mark in report.training.marks] == [
        ("FOSSILIZED", 0),
        ("TRAINING", 0),
    ]


def test_a_missing_figure_is_said_to_be_missing() -> None:
    """Claim: without a kernel's operations, a batch size or a geometry there is no estimate."""
    lacking = reported(started(), moved(1, "TRAINING"), at(RunCompleted, 5)).training.compute
    assert (lacking.total_flops, lacking.missing) == (None, ("operations of a kernel",))
    own = json.dumps({**CONFIG, "model": "own.loop:model"})
    loop = reported(started(config=own), at(RunCompleted, 5)).training
    assert (loop.samples, loop.compute.missing) == (None, ("samples a step",))
    strange = started(layers=(replace(started().layers[0], geometry="nonsense"),))
    assert reported(strange).training.compute.missing == ("positions of a layer",)
    assert compute_facts(None, 1, (), 1).host_flops is None
    assert batch_size({"run": 3}) is None


@pytest.mark.parametrize(
    ("geometry", "positions"),
    [
        (Geometry(), 1),
        (Geometry("sequence", (16,)), 16),
        (Geometry("conv2d", (8, 8), (3, 3), (2, 2), (1, 1), (1, 1)), 16),
    ],
)
def test_a_layer_counts_at_each_of_its_positions(geometry: Geometry, positions: int) -> None:
    """Claim: weights of a convolution or sequence are used at each position that is written."""
    layer = replace(started().layers[0], geometry=geometry.text)
    event = started(layers=(layer,), parameters=20)
    assert host_forward(event) == 2 * 20 * positions


def test_a_decision_has_its_evidence_answer_path_and_outcome() -> None:
    """Claim: what Tamiyo said, what the trainer did, and what came of it stand in one row; a
    command from outside, and one whose answer of Tamiyo is lost, are told from the journal.
    """
    command = ReviewedCommand(
        decision_id="d1",
        command="GERMINATE",
        layer="a",
        seed=0,
        kernel_id="k",
        family="mlp",
        alpha=-1.0,
        confidence=0.75,
        urgency=1.0,
        expected_impact=math.nan,
        evidence='{"z": 2.5, "gap": 0.1}',
    )
    records: tuple[Event, ...] = (
        any_event(EpochReviewed, run_id=RUN, commands=(command,), reason="why", step=10),
        any_event(
            AdaptationOutcome, run_id=RUN, decision_id="d1", verdict="CULLED", shadow_gap=-0.5
        ),
        any_event(
            CounterfactualMeasured, run_id=RUN, decision_id="d1", mode="OPEN", score_effect=0.25
        ),
    )
    topic = EpochReviewed.TOPIC
    report = reported(
        started(),
        at(AdaptationApplied, 10, decision_id="d1", source_topic=topic),
        moved(10, "TRAINING"),
        moved(30, "CULLED"),
        at(AdaptationRejected, 40, decision_id="d2", reason="too late", source_topic=topic),
        at(AdaptationApplied, 50, decision_id="d3", source_topic="control.kasmina.commands"),
        records=records,
    )
    first, refused, person = report.decisions
    assert (first.by, first.reason, first.evidence) == (TAMIYO, "why", {"gap": 0.1, "z": 2.5})
    assert (first.answer, first.answer_step, first.answer_event) == ("APPLIED", 10, 1)
    assert [stage.stage for stage in first.path] == ["TRAINING", "CULLED"]
    assert (first.verdict, first.shadow_gap) == ("CULLED", -0.5)
    assert (refused.by, refused.reason, refused.answer) == (TAMIYO, None, "REJECTED")
    assert refused.refused_because == "too late"
    (worth,) = report.counterfactuals
    assert (worth.decision_id, worth.mode, worth.score_effect) == ("d1", "OPEN", 0.25)
    assert (person.by, person.answer) == (OTHERS, "APPLIED")


def test_every_request_says_who_asked() -> None:
    """Claim: an answer of the journal is joined to its request; remarks and audit records stand
    beside it; what the trainer decides alone is no request.
    """
    asked = any_event(PauseRequested, run_id=RUN, reason="lunch", sender_id="tolaria")
    report = reported(
        started(),
        at(RunPaused, 3, command_id=asked.event_id),
        at(RunPaused, 4, command_id="unknown", reason="dinner"),
        at(RunPaused, 5, command_id=""),
        records=(
            asked,
            any_event(RunAnnotated, run_id=RUN, change="TAGGED", added=("x",), actor="anna"),
            any_event(RunAnnotated, run_id=RUN, change="BASELINE", on=True, actor="anna"),
            any_event(AuditRecorded, run_id=RUN, actor="ben", role="operator", action="POST"),
        ),
    )
    told = {(one.who, one.what, one.why) for one in report.requests}
    assert told == {
        ("through tolaria", "pause", "lunch"),
        (None, "pause", "dinner"),
        ("anna", "tag +x", ""),
        ("anna", "baseline on", ""),
        ("ben (operator)", "POST", ""),
    }


def test_the_end_of_a_run_is_the_one_of_its_last_event() -> None:
    """Claim: a run that failed says why; one that has not ended has no end and no final model."""
    failed = reported(started(), at(RunFailed, 3, reason="no room", error="OSError")).run
    assert (failed.outcome, failed.reason) == ("failed", "no room")
    alive = reported(started(), at(EpochEnded, 3, test_loss=0.5))
    assert (alive.run.outcome, alive.run.ended, alive.training.test_loss) == (
        "not ended",
        None,
        0.5,
    )
    assert alive.training.model_sha256 is None
    empty = reported()
    assert (empty.run.outcome, empty.run.recipe, empty.training.steps) == ("no event", None, 0)


def test_a_duty_is_answered_only_where_the_report_has_it() -> None:
    """Claim: the provider is asked for what Esper cannot know, and for what is missing here."""
    ended = reported(started(versions='{"data": "ab"}'), at(RunCompleted, 5))
    known = {one.asked: one.answer for one in duties(ended)}
    assert known["identity of the training data"]
    assert known["compute used for training"]
    assert not known["data provenance: origin, rights, selection, curation, biases"]
    assert not known["energy consumption"]
    lacking = {one.asked: one.answer for one in duties(reported(started()))}
    assert not lacking["identity of the training data"]
    assert not lacking["training time"]
    rows = sections(ended)[-1].tables[0].rows
    assert any(row[2] == "for the provider to add" for row in rows)


def test_a_kernel_is_told_by_its_artefact_before_its_publication() -> None:
    """Claim: what the id proves wins over what a record says; lineage is the record's."""
    published = any_event(KernelPublished, kernel_id="k", parameters=999, parents=("p",))
    events = (started(), moved(1, "TRAINING"))
    (known,) = reported(*events, kernels={"k": COPY}, records=(published,)).kernels
    assert (known.parameters, known.parents, known.blueprint) == (8, ("p",), {"nodes": []})
    (told,) = reported(*events, records=(published,)).kernels
    assert (told.parameters, told.blueprint) == (999, None)
    (bare,) = reported(*events).kernels
    assert (bare.parameters, bare.parents, bare.checks) == (None, None, None)


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (CheckResult("c", "m", "things", 3), "verified"),
        (CheckResult("c", "m", "things", 3, unchecked=("one",)), "verified in part"),
        (CheckResult("c", "m", "things", 0, unchecked=("one",)), "not checked"),
        (CheckResult("c", "m", "things", 3, ("it is wrong",), ("one",)), "failed"),
    ],
)
def test_the_verdict_follows_from_the_checks(check: CheckResult, status: str) -> None:
    """Claim: only what was checked, and holds, counts as verified."""
    assert check.status == status
    verdict = reported(started(), checks=(check,)).integrity.verdict
    assert verdict.startswith(
        {"verified": "Verified", "failed": "Not verified"}.get(status, "What")
    )
    assert reported(started()).integrity.verdict == "Nothing was checked."


def test_a_fold_names_the_first_event_that_does_not_follow() -> None:
    """Claim: a missing event is named, and the fold ends there."""
    first, second = journal(started(), at(RunCompleted, 1))
    assert fold_check(RUN, (first,)).faults == ()
    (fault,) = fold_check(RUN, (first, replace(second, sequence=3))).faults
    assert "lacks event 1" in fault
    assert len(fold_check(RUN, (second,)).faults) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, MISSING),
        ("", MISSING),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.1 + 0.2, "0.3"),
        (math.nan, "not a finite number"),
        ({"b": 1, "a": [2]}, '{"a": [2], "b": 1}'),
        ((), "none"),
    ],
)
def test_a_value_has_one_text(value: Any, text: str) -> None:
    """Claim: the same on every machine."""
    assert shown(value) == text


def test_a_time_is_the_events_own() -> None:
    """Claim: microseconds are kept, and a number that is no time is shown as it is."""
    assert moment(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456+00:00"
    assert moment(1 << 62).endswith("microseconds since 1970-01-01 UTC")
