"""A report as sections of sentences and tables, which every form for people has alike. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper.journal.story import flat
from esper.reports.content import HeldOutPoint, RunReport, SeedMark
from esper.reports.decision_trail import CounterfactualFacts, DecisionFacts
from esper.reports.duties import duties
from esper.reports.kernel_facts import KernelFacts

MISSING: Final = "not recorded"
_SHORT: Final = 12  # characters of an id in a table that names it elsewhere in full


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: its caption, the heads of its columns, and rows of texts of others and ours."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportPicture:
    """The held-out loss by epochs, with marks at stages of kernels."""

    caption: str
    points: tuple[HeldOutPoint, ...]
    marks: tuple[SeedMark, ...]


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A section: its title, sentences, tables, and a picture or none."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    picture: ReportPicture | None = None


def title_of(report: RunReport) -> str:
    """The title of the whole."""
    return f"Audit report of run {report.run.run_id}"


def sections(report: RunReport) -> tuple[ReportSection, ...]:
    """The report, what matters most first."""
    return (
        _integrity(report),
        _run(report),
        _training(report),
        _decisions(report),
        _requests(report),
        _kernels(report),
        _environment(report),
        _settings(report),
        _duties(report),
    )


def shown(value: Any) -> str:
    """A value for people: the same text on every machine."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "not a finite number"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, sort_keys=True, ensure_ascii=False) if value else "none"
    return str(value)


def _facts(caption: str, facts: Mapping[str, Any]) -> ReportTable:
    rows = tuple((name, shown(value)) for name, value in facts.items())
    return ReportTable(caption, ("field", "value"), rows)


def _integrity(report: RunReport) -> ReportSection:
    integrity = report.integrity
    keys = ", ".join(integrity.signers)
    signed = (
        f"Its events are signed by the key {keys}: SHA-256 of the public key, first 16 digits. "
        "Compare it with the one that the owner of the installation names."
        if keys
        else "Its events are not signed: their order and their digests alone speak for them."
    )
    damaged = bool(integrity.faults)
    head = f"SHA-256 of its last event: {integrity.head}. " if integrity.head else ""
    checks = ReportTable(
        "What was verified, and how",
        ("check", "result", "held", "method"),
        tuple(
            (check.name, check.status, f"{check.verified:,} {check.unit}", check.method)
            for check in integrity.checks
        ),
    )
    told = (
        ("does not hold", "Everything that does not hold", "faults"),
        ("not checked", "Everything that could not be checked", "unchecked"),
        ("note", "What is no fault, and worth knowing", "notes"),
    )
    lists = (
        ReportTable(
            caption,
            ("check", head_of),
            tuple((check.name, one) for check in integrity.checks for one in getattr(check, field)),
        )
        for head_of, caption, field in told
    )
    return ReportSection(
        "Integrity",
        (
            integrity.verdict,
            f"The journal is that of {integrity.source}; {integrity.events:,} events are believed.",
            f"{head}{signed}",
            *(("What follows is told from the events that are believed.",) if damaged else ()),
        ),
        (checks, *(table for table in lists if table.rows)),
    )


def _run(report: RunReport) -> ReportSection:
    run = report.run
    facts = {
        "run": run.run_id,
        "recipe": run.recipe,
        "task": run.task,
        "outcome": run.outcome,
        **({"reason of the outcome": run.reason} if run.reason else {}),
        "began (UTC)": run.began,
        "ended (UTC)": run.ended or "it has not ended",
        "seconds from beginning to end": run.seconds,
        "decisions": run.decisions,
        "random seed": run.seed,
        "timelines": run.timelines,
        "processes that trained it": run.processes,
        "forked from": f"{run.parent}, step {run.parent_step}" if run.parent else "no other run",
        **({"settings that the fork changed": run.fork_changes} if run.fork_changes else {}),
        **({"decisions that the fork leaves out": run.left_out} if run.left_out else {}),
    }
    turns = ReportTable(
        "Forks, pauses, resumptions, rollbacks, faults and the end",
        ("event", "time (UTC)", "timeline", "epoch", "step", "what", "why"),
        tuple(
            (
                str(turn.event),
                turn.at,
                str(turn.timeline),
                str(turn.epoch),
                str(turn.step),
                turn.what,
                turn.why,
            )
            for turn in report.turns
        ),
    )
    return ReportSection("The run", (), (_facts("The run", facts), turns))


def _training(report: RunReport) -> ReportSection:
    training, compute = report.training, report.training.compute
    facts = {
        "epochs": training.epochs,
        "optimizer steps": training.steps,
        "optimizer steps of all timelines": training.steps_executed,
        "samples a step": training.batch_size,
        "samples trained on (steps times samples a step)": training.samples,
        "parameters of the host at the start": training.parameters_at_start,
        "parameters at the end, kept kernels included": training.parameters_at_end,
        "host operations for one sample of training": compute.host_flops_a_sample,
        "operations of the host (FLOPs)": compute.host_flops,
        "operations of the kernels (FLOPs)": compute.kernel_flops,
        "compute used for training (FLOPs, estimate)": compute.total_flops,
        "test loss": training.test_loss,
        f"test score ({training.score_name or MISSING})": training.score,
        **{f"test {name}": value for name, value in training.metrics.items()},
        "SHA-256 of the final parameters": training.parameters_digest,
        "SHA-256 of the file of the final model": training.model_sha256,
    }
    missing = (
        (f"Missing for the estimate: {', '.join(compute.missing)}.",) if compute.missing else ()
    )
    epochs = ReportTable(
        "Epochs of the present line",
        (
            "epoch",
            "step",
            "training loss",
            "held-out loss",
            "test loss",
            "test score",
            "SHA-256 of the parameters",
        ),
        tuple(
            (
                str(point.epoch),
                str(point.step),
                shown(point.train_loss),
                shown(point.held_out_loss),
                shown(point.test_loss),
                shown(point.test_score),
                point.parameters_digest,
            )
            for point in training.curve
        ),
    )
    picture = ReportPicture("Held-out loss by epoch", training.curve, training.marks)
    return ReportSection(
        "Training",
        (compute.method, compute.left_out, *missing),
        (_facts("Training and its result", facts), epochs),
        picture,
    )


def _decisions(report: RunReport) -> ReportSection:
    rows = tuple(_decision(one) for one in report.decisions)
    evidence = tuple(
        (one.decision_id, name, shown(value))
        for one in report.decisions
        for name, value in (one.evidence or {}).items()
    )
    known = (
        "Reason, evidence and policy are those of Tamiyo's answer to the epoch; where they are "
        f'"{MISSING}", that answer was not at hand, and the decision is told from the journal.'
    )
    return ReportSection(
        "Who decided what",
        (known,),
        (
            ReportTable(
                "Decisions, the trainer's answers, and what came of them",
                (
                    "decision",
                    "by",
                    "step",
                    "command",
                    "seed",
                    "kernel",
                    "reason",
                    "confidence",
                    "answer",
                    "stages",
                    "outcome",
                ),
                rows,
            ),
            *((_evidence(evidence),) if evidence else ()),
            *((_worth(report.counterfactuals),) if report.counterfactuals else ()),
        ),
    )


def _evidence(rows: tuple[tuple[str, ...], ...]) -> ReportTable:
    return ReportTable("Evidence of the decisions", ("decision", "figure", "value"), rows)


def _worth(answers: Sequence[CounterfactualFacts]) -> ReportTable:
    rows = tuple(
        (
            one.decision_id,
            one.mode.lower(),
            str(one.orders),
            str(one.until_epoch),
            f"{_effect(one.score_effect, one.score_low, one.score_high)} of {one.score_name}",
            _effect(one.loss_effect, one.loss_low, one.loss_high),
            shown(one.proven),
            f"{one.actor}, {one.measured}",
        )
        for one in answers
    )
    return ReportTable(
        "What decisions were worth: runs with them minus runs without them (mean, 95 % interval)",
        (
            "decision",
            "loop",
            "batch orders",
            "after epoch",
            "score",
            "loss",
            "reproduces the record",
            "asked by",
        ),
        rows,
    )


def _effect(mean: float, low: float | None, high: float | None) -> str:
    between = "" if low is None or high is None else f" [{shown(low)}, {shown(high)}]"
    return f"{shown(mean)}{between}"


def _decision(one: DecisionFacts) -> tuple[str, ...]:
    policy = f" ({one.policy})" if one.policy else ""
    kernel = " ".join(filter(None, (one.family, one.kernel_id[:_SHORT]))) or "none"
    return (
        one.decision_id,
        f"{one.by}{policy}",
        str(one.step),
        one.command,
        f"{one.layer}[{one.seed}]",
        kernel,
        shown(one.reason),
        shown(one.confidence),
        _answer(one),
        ", ".join(f"{stage.stage} at step {stage.step}" for stage in one.path) or "none",
        _outcome(one),
    )


def _answer(one: DecisionFacts) -> str:
    if one.answer == "APPLIED":
        return f"applied at step {one.answer_step} (event {one.answer_event})"
    if one.answer == "REJECTED":
        return f"rejected (event {one.answer_event}): {one.refused_because}"
    return "none in the journal"


def _outcome(one: DecisionFacts) -> str:
    if one.verdict is None:
        return MISSING if one.command == "GERMINATE" else "only a graft has one"
    return f"{one.verdict}, shadow gap {shown(one.shadow_gap)} nats, reward {shown(one.reward)}"


def _requests(report: RunReport) -> ReportSection:
    rows = tuple(
        (
            one.at,
            shown(one.who),
            one.what,
            one.why or "no words",
            one.answer,
            "none" if one.event is None else str(one.event),
        )
        for one in report.requests
    )
    sentence = (
        "Requests of people, and what they said of the run."
        if rows
        else "Nobody asked for anything while it trained, as far as records are at hand."
    )
    table = ReportTable(
        "Requests of people and parts",
        ("time (UTC)", "who", "asked for", "words", "answer", "event"),
        rows,
    )
    return ReportSection("Human requests", (sentence,), (table,) if rows else ())


def _kernels(report: RunReport) -> ReportSection:
    kernels = report.kernels
    table = ReportTable(
        "Kernels that were grafted",
        (
            "kernel",
            "family",
            "parameters",
            "FLOPs a forward and sample",
            "blueprint",
            "parents",
            "SHA-256",
        ),
        tuple(
            (
                one.kernel_id,
                shown(one.family),
                shown(one.parameters),
                shown(one.flops),
                shown(one.blueprint_id),
                MISSING if one.parents is None else ", ".join(one.parents) or "none",
                shown(one.sha256),
            )
            for one in kernels
        ),
    )
    grafts = ReportTable(
        "Grafts",
        ("kernel", "seed", "timeline", "decision", "from step", "to step", "last stage"),
        tuple(
            (
                one.kernel_id[:_SHORT],
                f"{graft.layer}[{graft.seed}]",
                str(graft.timeline),
                graft.decision_id,
                str(graft.from_step),
                str(graft.to_step),
                graft.stage,
            )
            for one in kernels
            for graft in one.grafts
        ),
    )
    tables = (table, grafts, *_of_kernels(kernels)) if kernels else ()
    sentence = "A kernel's id is the SHA-256 over its blueprint and first weights."
    return ReportSection("Kernels", (sentence if kernels else "No kernel was grafted.",), tables)


def _of_kernels(kernels: Sequence[KernelFacts]) -> Iterator[ReportTable]:
    """Blueprints and validations, where they are at hand."""
    nodes = tuple(
        (one.kernel_id[:_SHORT], node["name"], node["op"], ", ".join(node["inputs"]))
        for one in kernels
        if one.blueprint is not None
        for node in one.blueprint["nodes"]
    )
    if nodes:
        yield ReportTable("Blueprints", ("kernel", "node", "operator", "inputs"), nodes)
    checks = tuple(
        (one.kernel_id[:_SHORT], check.name, shown(check.passed), check.detail)
        for one in kernels
        for check in one.checks or ()
    )
    if checks:
        yield ReportTable(
            "Validation by the foundry", ("kernel", "check", "held", "figure"), checks
        )


def _environment(report: RunReport) -> ReportSection:
    data = {"SHA-256 of the data": report.data_sha256, **report.inputs}
    return ReportSection(
        "Data and environment",
        (),
        (
            _facts("Data, sources and arguments, as the run recorded them", data),
            _facts("Environment that decides the bits, as recorded", report.environment),
        ),
    )


def _settings(report: RunReport) -> ReportSection:
    return ReportSection("Settings", (), (_facts("Every setting", _sorted(flat(report.settings))),))


def _sorted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in sorted(values)}


def _duties(report: RunReport) -> ReportSection:
    known = duties(report)
    table = ReportTable(
        "Fields of the EU AI Act (Regulation (EU) 2024/1689)",
        ("provision", "field", "where in this report"),
        tuple((one.provision, one.asked, one.answer or "for the provider to add") for one in known),
    )
    return ReportSection(
        "Record keeping and technical documentation",
        ("Where this report has what a field asks for; it is no statement that a duty is met.",),
        (table,),
    )
