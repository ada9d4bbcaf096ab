"""The foundry's answer to one field report: propose, compile, publish, answer.

Every event's id follows from what it is about, so an answer that a kill cut short is completed by
giving it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esper.clock import Clock
from esper.errors import BuildError
from esper.events import Event, Origin
from esper.events.records import (
    BlueprintFailed,
    BlueprintProposed,
    CompilationFailed,
    CompilationStarted,
    FieldReport,
    FieldReportAnswered,
    KernelCompiled,
    KernelPublished,
    KernelRejected,
    KernelValidated,
)
from esper.karn import BlueprintIR, Budget
from esper.tezzeret.compilation import AttemptStarted, Compiled, Compiler, Failed, Rejected
from esper.tezzeret.report_ledger import ReportLedger
from esper.urza.publish import intact, store_artefact
from esper.urza.store import Store

SENDER = "foundry"


@dataclass(frozen=True, slots=True)
class Workshop:
    """What an answer is made with.

    Attributes:
        ledger: what is known already.
        store: where artefacts go.
        clock: for time stamps and durations.
        compiler: gives the compiler; called only when something has to be compiled, and may wait
            until it is loaded.
        innovate: what to propose for a report.
        emit: sends an event; may return before it is delivered.
        settle: returns once everything emitted is delivered; raises UnavailableError otherwise.
    """

    ledger: ReportLedger
    store: Store
    clock: Clock
    compiler: Callable[[], Compiler]
    innovate: Callable[[FieldReport], tuple[BlueprintIR, ...]]
    emit: Callable[[Event], None]
    settle: Callable[[], None]


def answer(shop: Workshop, report: FieldReport) -> FieldReportAnswered:
    """Answer a report: every blueprint that Karn proposes becomes a published kernel, is one
    already, or has failed.

    Raises:
        StorageFullError: no room for an artefact; answer again later.
        UnavailableError: broker or store cannot be reached; answer again later.
    """
    kernels, failed = set(), set()
    blueprints = shop.innovate(report)
    for ir in blueprints:
        if not shop.ledger.proposed(report.event_id, ir.blueprint_id):
            shop.emit(_proposed(shop, report, ir))
    for ir in blueprints:
        kernel_id = (
            None
            if shop.ledger.failed(report.event_id, ir.blueprint_id)
            else _kernel(shop, report, ir)
        )
        if kernel_id is None:
            failed.add(ir.blueprint_id)
        else:
            kernels.add(kernel_id)
    shop.settle()  # who hears the answer finds the kernels that it names
    answered = FieldReportAnswered(
        **_of_run(shop, report).envelope(
            f"answered:{report.event_id}", causation_id=report.event_id
        ),
        report_id=report.event_id,
        # sets have no fixed order, and an answer given again has to be the same bytes
        kernels=tuple(sorted(kernels)),
        failed=tuple(sorted(failed)),
    )
    shop.emit(answered)
    shop.settle()
    return answered


def give_up(shop: Workshop, report: FieldReport) -> FieldReportAnswered:
    """Answer a report that cannot be answered, with no kernels. Raises as `answer` does."""
    answered = FieldReportAnswered(
        **_of_run(shop, report).envelope(
            f"answered:{report.event_id}", causation_id=report.event_id
        ),
        report_id=report.event_id,
        kernels=(),
        failed=(),
    )
    shop.emit(answered)
    shop.settle()
    return answered


def _kernel(shop: Workshop, report: FieldReport, ir: BlueprintIR) -> str | None:
    """The published kernel of a blueprint, built where there is none or its artefact is lost.

    None when it cannot be built.
    """
    for entry in shop.ledger.catalogue.of_blueprint(ir.blueprint_id):
        # the catalogue is not enough: the artefact may be lost or damaged since
        if intact(shop.store, entry):
            return entry.kernel_id
    compiled = _compile(shop, report, ir)
    if compiled is None:
        return None
    _publish(shop, report, compiled)
    return compiled.sealed.kernel_id


def _compile(shop: Workshop, report: FieldReport, ir: BlueprintIR) -> Compiled | None:
    """The compiled kernel, or None after BlueprintFailed; every attempt is an event."""
    run = _of_run(shop, report)
    budget = Budget.of(max(layer.parameter_budget for layer in report.layers), ir.writes.positions)
    attempts = 0

    def tell(news: AttemptStarted | Failed | Rejected) -> None:
        nonlocal attempts
        attempts = news.attempt
        key = f"{report.event_id}:{ir.blueprint_id}:{news.attempt}"
        match news:
            case AttemptStarted():
                shop.emit(
                    CompilationStarted(
                        **run.envelope(f"compiling:{key}", causation_id=report.event_id),
                        blueprint_id=ir.blueprint_id,
                        attempt=news.attempt,
                        configuration=news.configuration,
                    )
                )
            case Failed():
                shop.emit(
                    CompilationFailed(
                        **run.envelope(f"not compiled:{key}", causation_id=report.event_id),
                        blueprint_id=ir.blueprint_id,
                        attempt=news.attempt,
                        configuration=news.configuration,
                        error=news.error,
                        detail=news.detail,
                    )
                )
            case Rejected():
                shop.emit(
                    KernelRejected(
                        **run.envelope(f"rejected:{key}", causation_id=report.event_id),
                        kernel_id=news.kernel_id,
                        blueprint_id=ir.blueprint_id,
                        checks=news.checks,
                    )
                )

    try:
        return shop.compiler()(ir, budget, clock=shop.clock, progress=tell)
    except BuildError as error:
        shop.emit(
            BlueprintFailed(
                **run.envelope(
                    f"failed:{report.event_id}:{ir.blueprint_id}", causation_id=report.event_id
                ),
                report_id=report.event_id,
                blueprint_id=ir.blueprint_id,
                attempts=attempts,
                error=str(error),
            )
        )
        return None


def _publish(shop: Workshop, report: FieldReport, compiled: Compiled) -> None:
    """Store the artefact, and make a kernel that is not known yet known: it belongs to no run, so
    its events have none.
    """
    ir, sealed = compiled.ir, compiled.sealed
    known = shop.ledger.catalogue.kernels.get(sealed.kernel_id)
    if known is not None and known.sha256 == sealed.sha256:
        # an artefact is proof that its compilation was told: a known one is not told again after a
        # kill
        shop.settle()
        store_artefact(shop.store, sealed)
        return
    origin = Origin("", SENDER, report.trace_id, shop.clock)
    named = f"{sealed.kernel_id}:{sealed.sha256}"
    shop.emit(
        KernelValidated(
            **origin.envelope(f"validated:{named}", causation_id=report.event_id),
            kernel_id=sealed.kernel_id,
            blueprint_id=ir.blueprint_id,
            checks=compiled.checks,
        )
    )
    shop.emit(
        KernelCompiled(
            **origin.envelope(f"compiled:{named}", causation_id=report.event_id),
            kernel_id=sealed.kernel_id,
            blueprint_id=ir.blueprint_id,
            attempt=compiled.attempt,
            configuration=compiled.configuration,
            compile_ms=compiled.compile_ms,
        )
    )
    shop.settle()
    store_artefact(shop.store, sealed)
    shop.emit(
        KernelPublished(
            **origin.envelope(f"published:{named}", causation_id=report.event_id),
            kernel_id=sealed.kernel_id,
            **ir.description,
            address=sealed.address,
            sha256=sealed.sha256,
            size_bytes=len(sealed.content),
            tags=(f"family={ir.family}", f"tap={ir.tap}", f"blend={ir.blend}"),
            parents=(),
            latency_us=compiled.latency_us,
            alpha_target=ir.alpha_target,
        )
    )


def _of_run(shop: Workshop, report: FieldReport) -> Origin:
    return Origin(report.run_id, SENDER, report.trace_id, shop.clock)


def _proposed(shop: Workshop, report: FieldReport, ir: BlueprintIR) -> BlueprintProposed:
    return BlueprintProposed(
        **_of_run(shop, report).envelope(
            f"proposed:{report.event_id}:{ir.blueprint_id}", causation_id=report.event_id
        ),
        report_id=report.event_id,
        **ir.description,
        ir=ir.json,
    )
