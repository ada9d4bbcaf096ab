"""Records beside a run's journal: answers of Tamiyo, outcomes, requests, remarks, kernels.

They come from the history, or from the tables of an export. Signatures are those of their writers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from esper.bounded import open_in
from esper.bounded.names import MALFORMED
from esper.bounded.parquet import objects_of
from esper.errors import CorruptError, EsperError, printable
from esper.events import Event
from esper.events.codec import decode, encode
from esper.events.envelope import SignedEvent
from esper.events.records import (
    AdaptationOutcome,
    AuditRecorded,
    CheckpointRequested,
    CounterfactualMeasured,
    EpochReviewed,
    KernelPublished,
    KernelValidated,
    PauseRequested,
    ResumeRequested,
    RollbackRequested,
    RunAnnotated,
    RunDeleted,
)
from esper.events.seals import OPERATOR, TAMIYO, Trust, fault, fingerprint, restored
from esper.history.queries import QuerySource
from esper.history.stored_events import event_in, placed
from esper.history.tables.ddl import snake
from esper.journal.exporting import OF_KERNELS
from esper.journal.portable import Export
from esper.reports.material import CheckResult

OF_RUNS: Final[tuple[type[Event], ...]] = (
    EpochReviewed,
    AdaptationOutcome,
    RunAnnotated,
    RunDeleted,
    CounterfactualMeasured,
    AuditRecorded,
    PauseRequested,
    ResumeRequested,
    CheckpointRequested,
    RollbackRequested,
)
"""Records that belong to one run."""
_NAME: Final = "Records beside the journal"
_METHOD: Final = (
    "Each answer of Tamiyo, outcome, remark and audit record: its Ed25519 signature (RFC 8032) "
    "over all of its content."
)


@dataclass(slots=True)
class Beside:
    """What was found: records that are believed, and the check of them."""

    records: list[Event] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    verified: int = 0
    keys: dict[str, None] = field(default_factory=dict)
    unsigned: int = 0
    faults: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def check(self) -> CheckResult:
        """The result of the check."""
        many = f"{self.unsigned} records are not signed."
        unsigned = [many] if self.unsigned else []
        signed = [f"Signed by the keys {', '.join(self.keys)}."] if self.keys else []
        return CheckResult(
            _NAME,
            _METHOD,
            "signed records",
            self.verified,
            tuple(self.faults),
            (*self.unchecked, *unsigned),
            (*signed, *self.notes),
        )


def beside_in_history(
    history: QuerySource, run_id: str, kernels: Collection[str], trust: Trust
) -> Beside:
    """The records of a run in the history; what the installation does not believe is left out, and
    noted.

    Raises:
        UsageError, UnavailableError: as `QuerySource.ask` does.
    """
    beside = Beside()
    for record in OF_RUNS:
        known = placed(history, record, "run_id = {run:String}", {"param_run": run_id})
        for event in _once(event for _, event in known):
            _judge_known(beside, event, trust)
        beside.read.add(record.NAME)
    for record in OF_KERNELS:
        for kernel_id in sorted(kernels):
            condition, parameters = "kernel_id = {id:String}", {"param_id": kernel_id}
            beside.records += _once(
                event for _, event in placed(history, record, condition, parameters)
            )
        beside.read.add(record.NAME)
    return beside


def beside_in_export(export: Export, kernels: Collection[str]) -> Beside:
    """The records of a run in the tables of its export: a record that its signer did not write so
    is a fault. Whoever signed is taken at its word, and named.
    """
    beside = Beside()
    for record in (*OF_RUNS, *OF_KERNELS):
        name = f"history/{snake(record.NAME)}.parquet"
        if name not in export.content.files:
            continue
        try:
            for number, event in enumerate(_rows(export, name, record)):
                _judge_stranger(beside, event, f"Row {number} of {name}", export, kernels)
        except CorruptError as error:
            beside.faults.append(told_of(error, export))
        beside.read.add(record.NAME)
    if not any(name.startswith("history/") for name in export.content.files):
        beside.unchecked.append("The export has no tables of the history.")
    return beside


def told_of(error: EsperError, export: Export) -> str:
    """The sentence of an error without the folder that the export lies in."""
    return printable(str(error).replace(f"{export.folder}/", ""))


def _judge_known(beside: Beside, event: Event, trust: Trust) -> None:
    if not isinstance(event, SignedEvent):
        beside.records.append(event)
        return
    writer = _writer_of(event)
    if trust.knows(writer, event.run_id):
        keys = trust.keys(writer, event.run_id)
        if why := fault(event, restored(event).value, keys):
            beside.notes.append(f"{event.NAME} {event.event_id} is left out: {printable(why)}.")
            return
        _count(beside, event)
    elif event.signature and not fault(event, restored(event).value, (event.signer,)):
        _count(beside, event)
    else:
        beside.unsigned += 1
    beside.records.append(event)


def _judge_stranger(
    beside: Beside, event: Event, place: str, export: Export, kernels: Collection[str]
) -> None:
    if isinstance(event, KernelPublished | KernelValidated):
        if event.kernel_id in kernels:
            beside.records.append(event)
        return
    if event.run_id != export.content.run_id:
        beside.faults.append(f"{place} is of another run, {printable(event.run_id)[:80]}.")
        return
    if isinstance(event, SignedEvent):
        if not event.signer and not event.signature:
            beside.unsigned += 1
        elif why := fault(event, restored(event).value, (event.signer,)):
            beside.faults.append(f"{place} ({event.NAME}, {event.event_id}): {why}.")
            return
        else:
            _count(beside, event)
    beside.records.append(event)


def _count(beside: Beside, event: SignedEvent) -> None:
    beside.verified += 1
    beside.keys[f"{fingerprint(event.signer)} ({_writer_of(event)})"] = None


def _writer_of(event: SignedEvent) -> str:
    if isinstance(event, EpochReviewed | AdaptationOutcome):
        return TAMIYO
    return OPERATOR if event.TOPIC == RunAnnotated.TOPIC else event.sender_id


def _once(events: Iterable[Event]) -> Iterator[Event]:
    """Each event once: a sender may have sent it twice."""
    seen: set[bytes] = set()
    for event in events:
        if (key := encode(event).value) not in seen:
            seen.add(key)
            yield event


def _rows(export: Export, name: str, record: type[Event]) -> Iterator[Event]:
    """The events in a table; whoever made it may have written anything.

    Raises:
        CorruptError: it is no table of such events.
    """
    with open_in(export.folder, name, export.limits.file) as file:
        for row in objects_of(file, export.limits, name):
            try:
                # through the codec, which refuses values that no event has
                yield decode(encode(event_in(record, row)).value)
            except (*MALFORMED, EsperError) as error:
                raise CorruptError(
                    f"{name} has a row that is no {record.NAME}: {printable(str(error))[:200]}."
                ) from error
