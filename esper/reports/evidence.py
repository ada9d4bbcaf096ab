"""The material of a report, gathered and verified: from an export, or from this installation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from esper.bounded import limits_of
from esper.checkpoint.manifest import Stores
from esper.checkpoint.retention import family_of
from esper.checkpoint.tensors import open_cold
from esper.config import Settings
from esper.errors import CorruptError, KeyMissingError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import KernelPublished, RunStarted
from esper.events.seals import TRAINER, Trust, fingerprint
from esper.history.queries import QuerySource
from esper.journal.exporting import grafted
from esper.journal.portable import Export, file_faults, unverified_export
from esper.journal.reading import JOURNAL, journal_in
from esper.journal.replay import live_state
from esper.oona.durable.authentic import Judge, as_received, judged
from esper.reports.beside import Beside, beside_in_export, beside_in_history, told_of
from esper.reports.checks import KernelChecks, SnapshotChecks, fold_check, seal_check
from esper.reports.material import EXPORT, INSTALLATION, CheckResult, Material
from esper.service.transport import signing
from esper.urza.artefact import address_of
from esper.urza.opening import open_store
from esper.urza.sealed import open_kernels
from esper.vault.family_keys import FamilyKey, any_in, opened
from esper.vault.masters import masters


def from_export(
    folder: Path,
    run_id: str,
    settings: Settings,
    passphrase: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Material:
    """The material of a run in the folder of its export: each fault is named in a check.

    Raises:
        UsageError: there is no export, it is of another run, or the passphrase is another one.
        CorruptError: its manifest is damaged, or something in the folder is no plain file.
    """
    export = unverified_export(folder, limits_of(settings.imports))
    if export.content.run_id != run_id:
        raise UsageError(f"{folder} is an export of run {export.content.run_id}, not of {run_id}.")
    family, key_fault = _family_in(export, settings, passphrase)
    progress("files")
    files = _files(export, key_fault)
    progress("journal")
    judge, events, journal_faults = _journal_in(export)
    progress("snapshots")
    snapshots = SnapshotChecks(
        Stores(export.store, limits=export.limits), family, export.content.lost, gone_is_fault=True
    ).look(events)
    progress("kernels and records")
    beside = beside_in_export(export, grafted(events))
    kernels = KernelChecks(_published(beside))
    for kernel_id in grafted(events):
        _kernel_in(export, kernel_id, kernels)
    checks = (
        files,
        seal_check(judge, strict=True, faults=journal_faults),
        fold_check(run_id, events),
        *(_without_folder(check, export) for check in snapshots),
        kernels.result,
        beside.check,
    )
    return _material(run_id, EXPORT, events, judge, beside, kernels, checks)


def from_installation(
    run_id: str,
    pairs: Sequence[tuple[JournalEvent, bytes]],
    judge: Judge,
    settings: Settings,
    history: QuerySource | None,
    *,
    complete: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Material:
    """The material of a run of this installation, whose journal was read already by a tolerant
    judge.

    `complete` says whether the history has everything that is on Kafka.

    Raises:
        UnavailableError: the store or the history cannot be used.
    """
    events = tuple(event for event, _ in pairs)
    progress("snapshots")
    store = open_store(settings)
    snapshots = SnapshotChecks(
        Stores(store, open_cold(settings)), _family(events, settings), (), gone_is_fault=False
    ).look(events)
    progress("kernels and records")
    beside = Beside()
    if history is None:
        beside.unchecked.append("The history does not answer, so the journal alone is read.")
    else:
        trust = signing.trust(settings.keys_dir)
        beside = beside_in_history(history, run_id, grafted(events), trust)
        if not complete:
            beside.unchecked.append("The history is behind Kafka: records may be missing.")
    kernels = KernelChecks(_published(beside))
    _kernels_here(events, settings, kernels)
    checks = (
        seal_check(judge, strict=False),
        fold_check(run_id, events, live_state(settings.runs_dir / run_id)),
        *snapshots,
        kernels.result,
        beside.check,
    )
    return _material(run_id, INSTALLATION, events, judge, beside, kernels, checks)


def _material(
    run_id: str,
    source: str,
    events: tuple[JournalEvent, ...],
    judge: Judge,
    beside: Beside,
    kernels: KernelChecks,
    checks: tuple[CheckResult, ...],
) -> Material:
    return Material(
        run_id=run_id,
        source=source,
        journal=events,
        head=judge.head if judge.signed else "",
        signers=tuple(map(fingerprint, judge.signers)),
        records=tuple(beside.records),
        read=frozenset(beside.read),
        kernels=kernels.copies,
        checks=checks,
    )


def _files(export: Export, key_fault: str) -> CheckResult:
    faults = [f"{name} {fault}" for name, fault in file_faults(export)]
    wrong = {fault.partition(" ")[0] for fault in faults}
    return CheckResult(
        "Files of the export",
        "The SHA-256 of every file is the one that manifest.json names, and no file is there that "
        "it does not name.",
        "files",
        len(export.content.files.keys() - wrong),
        (*faults, *([key_fault] if key_fault else [])),
    )


def _journal_in(export: Export) -> tuple[Judge, tuple[JournalEvent, ...], list[str]]:
    """The events of an export's journal that are believed, the judge that followed them, and what
    is wrong with the file.
    """
    content, faults, values = export.content, list[str](), list[bytes]()
    try:
        for value in journal_in(export.folder, export.limits):
            # one more than promised shows that there are too many, however many follow
            if len(values) > content.events:
                break
            values.append(value)
    except (CorruptError, UsageError) as error:
        faults.append(f"After message {len(values) - 1}: {told_of(error, export)}")
    if len(values) != content.events:
        many = f"more than {content.events}" if len(values) > content.events else str(len(values))
        faults.append(f"{JOURNAL} has {many} messages; manifest.json says {content.events}.")
    judge = Judge(content.run_id, _trust_of(export), tolerant=True)
    received = as_received(values, content.run_id, source=JOURNAL)
    events = tuple(event for event, _ in judged(received, judge))
    started = events[0] if events else None
    if isinstance(started, RunStarted) and family_of(events) != content.family:
        faults.append("The journal is of another family than manifest.json says.")
    return judge, events, faults


def _trust_of(export: Export) -> Trust:
    """The keys that the export names; the first signer is taken at its word where they are damaged,
    which the check of files says.
    """
    try:
        return export.trust()
    except CorruptError:
        return Trust({}, {TRAINER: 1})


def _family_in(export: Export, settings: Settings, passphrase: str) -> tuple[FamilyKey | None, str]:
    """The key of an export's snapshots, None where it is not at hand, and what is wrong with its
    file.
    """
    content = export.content
    if not content.master_key:
        return None, ""
    try:
        family = opened(export.store, export.masters(settings, passphrase), content.family)
    except KeyMissingError:
        return None, ""
    except CorruptError as error:
        return None, told_of(error, export)
    return family, "" if family else "The export lacks the key of its snapshots."


def _family(events: Sequence[JournalEvent], settings: Settings) -> FamilyKey | None:
    store = open_store(settings)
    if not events or not isinstance(events[0], RunStarted) or not any_in(store):
        return None
    try:
        return opened(store, masters(settings), family_of(events))
    except (KeyMissingError, CorruptError):
        return None


def _kernel_in(export: Export, kernel_id: str, kernels: KernelChecks) -> None:
    try:
        kernels.take(kernel_id, export.store.get(address_of(kernel_id)))
    except CorruptError as error:
        kernels.faults.append(told_of(error, export))


def _kernels_here(
    events: Sequence[JournalEvent], settings: Settings, kernels: KernelChecks
) -> None:
    """The kernels of a run of this installation: the run's own copy, else the store's."""
    wanted = grafted(events)
    if not wanted:
        return
    folder = settings.runs_dir / events[0].run_id / "kernels"
    try:
        store = open_kernels(settings)
    except (KeyMissingError, CorruptError):
        kernels.unchecked.append("The key of the kernels is not at hand.")
        return
    for kernel_id in wanted:
        try:
            address = address_of(kernel_id)
            path = folder / f"{kernel_id}.safetensors"
            own = store.box.opened(address, path.read_bytes()) if path.is_file() else None
            kernels.take(kernel_id, own if own is not None else store.get(address))
        except (CorruptError, UsageError) as error:
            kernels.faults.append(f"Kernel {printable(kernel_id)}: {printable(str(error))}")
        except OSError:
            kernels.unchecked.append(f"Kernel {kernel_id} cannot be read.")


def _published(beside: Beside) -> dict[str, str]:
    return {one.kernel_id: one.sha256 for one in beside.records if isinstance(one, KernelPublished)}


def _without_folder(check: CheckResult, export: Export) -> CheckResult:
    return replace(
        check, faults=tuple(told_of(CorruptError(fault), export) for fault in check.faults)
    )
