"""The report of a run as one frozen structure, and how it follows from its material. Pure.

Times are the events' own, in UTC; losses in nats; shares as fractions. None says that the figure
was not recorded, or that the record which has it was not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from esper.bounded import DEFAULT, json_of
from esper.errors import EsperError
from esper.events import JournalEvent
from esper.events.records import (
    EpochEnded,
    InstabilityDetected,
    KernelFailed,
    RunCompleted,
    RunFailed,
    RunForked,
    RunPaused,
    RunResumed,
    RunRolledBack,
    RunStarted,
    TelemetryLost,
)
from esper.journal.story import EpochPoint, present_line, status_of
from esper.lifecycle.overview import score_of
from esper.reports.compute import ComputeFacts, batch_size, compute_facts
from esper.reports.decision_trail import (
    CounterfactualFacts,
    DecisionFacts,
    counterfactual_facts,
    decision_trail,
)
from esper.reports.human_requests import RequestFacts, human_requests
from esper.reports.kernel_facts import RESTORED, KernelFacts, kernel_facts, steps_trained
from esper.reports.material import CheckResult, Material
from esper.reports.moments import moment

FORMAT: Final = "esper-run-report/1"
_DATA: Final = "data"
_MARKED: Final = ("TRAINING", "FOSSILIZED", "CULLED")
_SOURCES: Final = ("source of ", "arguments", "run of the script")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the run is, when it began and ended, and how.

    `parent` is the run that it was forked from, `parent_step` where; `reason` says why it ended.
    """

    run_id: str
    recipe: str | None
    task: str | None
    decisions: str | None
    seed: int | None
    outcome: str
    reason: str
    began: str
    ended: str | None
    seconds: float | None
    timelines: int
    processes: int
    parent: str | None
    parent_step: int | None
    fork_changes: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """A fork, resumption, pause, rollback or fault: what happened at which event, and why."""

    event: int
    at: str
    timeline: int
    epoch: int
    step: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class HeldOutPoint:
    """The end of an epoch of the present line, with the digest of its parameters."""

    epoch: int
    step: int
    held_out_loss: float
    held_out_score: float | None
    test_loss: float
    test_score: float
    train_loss: float
    parameters_digest: str


@dataclass(frozen=True, slots=True)
class SeedMark:
    """A stage that the picture marks."""

    epoch: int
    layer: str
    seed: int
    stage: str
    family: str


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """How much was trained, what it cost, and what came of it.

    `steps` stand on the present line, `steps_executed` are those of left timelines too, without
    the parent's and without those that a resumption executed again.
    """

    epochs: int
    steps: int
    steps_executed: int
    batch_size: int | None
    samples: int | None
    parameters_at_start: int | None
    parameters_at_end: int | None
    compute: ComputeFacts
    score_name: str | None
    higher_is_better: bool | None
    score: float | None
    test_loss: float | None
    metrics: Mapping[str, float]
    parameters_digest: str | None
    model_sha256: str | None
    curve: tuple[HeldOutPoint, ...]
    marks: tuple[SeedMark, ...]


@dataclass(frozen=True, slots=True)
class Integrity:
    """What was verified, and the identity of the journal that the report is of."""

    source: str
    events: int
    head: str
    signers: tuple[str, ...]
    checks: tuple[CheckResult, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that does not hold."""
        return tuple(fault for check in self.checks for fault in check.faults)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Everything that could not be checked."""
        return tuple(sentence for check in self.checks for sentence in check.unchecked)

    @property
    def verdict(self) -> str:
        """The result of all checks in a sentence."""
        if self.faults:
            count = len(self.faults)
            things = "thing does" if count == 1 else "things do"
            return f"Not verified: {count} {things} not hold."
        if not self.checks:
            return "Nothing was checked."
        if self.unchecked:
            return "What was checked holds; not everything could be checked."
        return "Verified: every check holds."


@dataclass(frozen=True, slots=True)
class RunReport:
    """The whole report. `read` names the records beside the journal that were looked for."""

    run: RunFacts
    turns: tuple[TurnFacts, ...]
    settings: Mapping[str, Any]
    data_sha256: str | None
    inputs: Mapping[str, str]
    environment: Mapping[str, Any]
    decisions: tuple[DecisionFacts, ...]
    counterfactuals: tuple[CounterfactualFacts, ...]
    requests: tuple[RequestFacts, ...]
    kernels: tuple[KernelFacts, ...]
    training: TrainingFacts
    integrity: Integrity
    read: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        body = asdict(self)
        for check, known in zip(body["integrity"]["checks"], self.integrity.checks, strict=True):
            check["status"] = known.status
        body["integrity"]["verdict"] = self.integrity.verdict
        return {"format": FORMAT, **body}


def run_report(material: Material) -> RunReport:
    """The report that follows from the material; equal material gives equal reports."""
    events = material.journal
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    config = _object(started.config) if started else {}
    versions = _object(started.versions) if started else {}
    kernels = kernel_facts(material)
    return RunReport(
        run=_run(material.run_id, events, started, config),
        turns=tuple(turn for event in events if (turn := _turn(event)) is not None),
        settings=config,
        data_sha256=versions.get(_DATA),
        inputs={name: str(versions[name]) for name in sorted(versions) if _is_input(name)},
        environment=_environment(started, versions),
        decisions=decision_trail(material),
        counterfactuals=counterfactual_facts(material),
        requests=human_requests(material),
        kernels=kernels,
        training=_training(events, started, config, kernels),
        integrity=Integrity(
            material.source, len(events), material.head, material.signers, material.checks
        ),
        read=tuple(sorted(material.read)),
    )


def _run(
    run_id: str,
    events: Sequence[JournalEvent],
    started: RunStarted | None,
    config: Mapping[str, Any],
) -> RunFacts:
    forked = next((event for event in events if isinstance(event, RunForked)), None)
    last = events[-1] if events else None
    ended = last if isinstance(last, RunCompleted | RunFailed) else None
    task = config.get("task")
    return RunFacts(
        run_id=run_id,
        recipe=started.recipe if started else None,
        task=str(task) if task is not None else None,
        decisions=started.decisions if started else None,
        seed=started.seed if started else None,
        outcome=status_of(events) if events else "no event",
        reason=last.reason if isinstance(last, RunFailed | RunPaused) else "",
        began=moment(events[0].occurred_at) if events else "",
        ended=moment(ended.occurred_at) if ended else None,
        seconds=(ended.occurred_at - events[0].occurred_at) / 1e6 if ended else None,
        timelines=len({event.timeline for event in events}),
        processes=1
        + sum(isinstance(event, RunResumed) and event.restored_step >= 0 for event in events),
        parent=forked.parent_run_id if forked else None,
        parent_step=forked.parent_step if forked else None,
        fork_changes=forked.changes if forked else (),
        left_out=forked.without if forked else (),
    )


def _turn(event: JournalEvent) -> TurnFacts | None:
    told = _told(event)
    if told is None:
        return None
    what, why = told
    return TurnFacts(
        event.sequence,
        moment(event.occurred_at),
        event.timeline,
        event.epoch,
        event.step,
        what,
        why,
    )


def _told(event: JournalEvent) -> tuple[str, str] | None:  # noqa: PLR0911 - a line a kind of event
    """What an event changed in the course of the run, and why; None for the ordinary course."""
    match event:
        case RunForked():
            return f"forked from {event.parent_run_id} at step {event.parent_step}", event.reason
        case RunPaused():
            return "paused", event.reason
        case RunResumed():
            begun = f" from snapshot {event.snapshot_id}" if event.snapshot_id else ""
            return f"resumed{begun} by process {event.incarnation}", event.reason
        case RunRolledBack():
            left = f"timeline {event.from_timeline}, step {event.from_step}"
            return f"rolled back to snapshot {event.snapshot_id}, left {left}", event.reason
        case InstabilityDetected():
            return f"unstable: {event.metric} {event.value:.6g}", event.reason
        case KernelFailed():
            where = f"{event.layer}[{event.seed}]"
            return f"kernel {event.kernel_id[:12]} of {where} failed ({event.phase})", event.error
        case TelemetryLost():
            return f"{event.lost} records of {event.topic} were dropped", "the ring was full"
        case RunFailed():
            return f"failed: {event.error}", event.reason
        case RunCompleted():
            return f"completed: {event.outcome}", ""
        case _:
            return None


def _training(
    events: Sequence[JournalEvent],
    started: RunStarted | None,
    config: Mapping[str, Any],
    kernels: Sequence[KernelFacts],
) -> TrainingFacts:
    line = present_line(events)
    ends = [event for event in line if isinstance(event, EpochEnded)]
    completed = next((event for event in reversed(events) if isinstance(event, RunCompleted)), None)
    last = completed or (ends[-1] if ends else None)
    score = score_of(last) if last else {}
    size, executed = batch_size(config), _executed(events)
    samples = None if size is None else executed * size
    return TrainingFacts(
        epochs=len({event.epoch for event in ends}),
        steps=line[-1].step if line else 0,
        steps_executed=executed,
        batch_size=size,
        samples=samples,
        parameters_at_start=started.parameters if started else None,
        parameters_at_end=completed.parameters if completed else None,
        compute=compute_facts(started, samples, steps_trained(kernels), size or 0),
        score_name=score.get("score_name"),
        higher_is_better=score.get("higher_is_better"),
        score=score.get("score"),
        test_loss=completed.loss if completed else ends[-1].test_loss if ends else None,
        metrics=dict(sorted((completed or ends[-1]).metrics.items())) if last else {},
        parameters_digest=(
            completed.digest if completed else ends[-1].parameters_digest if ends else None
        ),
        model_sha256=completed.model_sha256 if completed else None,
        curve=tuple(map(_point, ends)),
        marks=_marks(kernels, timelines={event.timeline for event in line}),
    )


def _executed(events: Sequence[JournalEvent]) -> int:
    """Optimizer steps of all timelines: those that a rollback left, too."""
    if not events:
        return 0
    forked = next((event for event in events if isinstance(event, RunForked)), None)
    left = sum(
        max(0, event.from_step - event.step) for event in events if isinstance(event, RunRolledBack)
    )
    return max(0, events[-1].step - (forked.step if forked else 0)) + left


def _point(event: EpochEnded) -> HeldOutPoint:
    point = EpochPoint.of(event)
    return HeldOutPoint(
        epoch=event.epoch + 1,
        step=event.step,
        held_out_loss=event.validation_loss,
        held_out_score=event.score if event.score_name else event.validation_accuracy,
        test_loss=event.test_loss,
        test_score=point.score,
        train_loss=event.train_loss,
        parameters_digest=event.parameters_digest,
    )


def _marks(kernels: Sequence[KernelFacts], timelines: set[int]) -> tuple[SeedMark, ...]:
    marks = [
        SeedMark(stage.epoch, graft.layer, graft.seed, stage.stage, kernel.family)
        for kernel in kernels
        for graft in kernel.grafts
        for stage in graft.path
        if graft.timeline in timelines and stage.stage in _MARKED and stage.reason != RESTORED
    ]
    return tuple(sorted(marks, key=lambda mark: (mark.epoch, mark.layer, mark.seed, mark.stage)))


def _environment(started: RunStarted | None, versions: Mapping[str, Any]) -> dict[str, Any]:
    if started is None:
        return {}
    packages = {
        f"version of {name}": str(versions[name])
        for name in sorted(versions)
        if not _is_input(name) and name != _DATA
    }
    return {
        "instruction set": started.instruction_set,
        "threads": started.threads,
        "BLAS": started.blas,
        "oneDNN": started.onednn,
        "SHA-256 of Esper's source": started.source_sha256,
        **packages,
    }


def _is_input(name: str) -> bool:
    return name.startswith(_SOURCES)


def _object(text: str) -> dict[str, Any]:
    """A JSON object of an event; empty where it is none, or nests deeper than anything of ours."""
    try:
        found = json_of(text.encode(), DEFAULT, "A text of the journal")
    except EsperError:
        return {}
    return found if isinstance(found, dict) else {}
