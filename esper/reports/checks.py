"""Verifying what a report says: files, journal, snapshots and kernels, each held against its hash
or signature.

Nothing stops at the first fault: each is named, and what is beyond it is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from esper.bounded.names import MALFORMED
from esper.checkpoint import chunks
from esper.checkpoint.manifest import Stores, chunks_in, manifest_at
from esper.errors import CorruptError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, EpochEnded, RunForked
from esper.lifecycle import Fold, RunState
from esper.oona.durable.authentic import Judge
from esper.reports.material import CheckResult, KernelCopy
from esper.urza.artefact import read
from esper.vault.family_keys import FamilyKey

SNAPSHOT_KEY: Final = "The key of the snapshots is not at hand, so no chunk was opened."
_SHOWN: Final = 20
"""Messages that were set aside and are named one by one."""


def seal_check(judge: Judge, *, strict: bool, faults: Sequence[str] = ()) -> CheckResult:
    """What a judge found among the messages of a journal.

    `strict`: nobody but a forger adds to a file, so what would be set aside on Kafka is a fault.
    """
    aside = [
        f"Message {one.received.offset}: {printable(one.why)}."
        if strict
        else f"The message at {one.place} is set aside: {printable(one.why)}."
        for one in judge.aside[:_SHOWN]
    ]
    if judge.set_aside > _SHOWN:
        aside.append(f"{judge.set_aside - _SHOWN} more messages are so.")
    unsigned = ["No event is signed."] if judge.events and not judge.signed else []
    return CheckResult(
        "Signatures and order of the journal",
        "Each event: decoded by its schema, the SHA-256 of the event before it, and the Ed25519 "
        "signature (RFC 8032) of its writer, which may cover a chain of events at once.",
        "events",
        judge.events if judge.signed else 0,
        (*faults, *map(printable, judge.faults), *(aside if strict else ())),
        tuple(unsigned),
        () if strict else tuple(aside),
    )


def fold_check(
    run_id: str, events: Sequence[JournalEvent], kept: RunState | None = None
) -> CheckResult:
    """Whether each event follows from those before it, and each epoch has the digest of the state.

    `kept` is the state that the trainer kept beside the run; None where there is none.
    """
    run, epochs, faults = Fold(RunState(run_id)), 0, list[str]()
    for event in events:
        if not run.sequence and not event.sequence:
            run.timeline = event.timeline
        try:
            run.apply(event)
        except CorruptError as error:
            faults.append(printable(str(error)))
            break
        except MALFORMED as error:
            faults.append(
                f"Event {event.sequence} does not follow from those before it: "
                f"{type(error).__name__}: {printable(str(error))}."
            )
            break
        epochs += isinstance(event, EpochEnded)
        if kept is not None and run.sequence == kept.sequence and run.state() != kept:
            faults.append(
                f"The state after event {event.sequence} is not the one that the trainer kept."
            )
    if kept is not None and not faults and run.sequence < kept.sequence:
        faults.append(
            f"The journal ends after event {run.sequence - 1}, and the trainer had written "
            f"{kept.sequence - 1}."
        )
    return CheckResult(
        "State of the run",
        "The journal is folded: events are gapless and in order, each follows from the state, and "
        "each epoch's SHA-256 of the state is the one that the trainer recorded.",
        "epochs",
        epochs,
        tuple(faults),
    )


@dataclass(slots=True)
class SnapshotChecks:
    """Checks snapshots, one event after the other; each chunk is read once.

    Attributes:
        stores: Where they lie.
        family: Their key; None where it is not at hand.
        lost: Ids of those that were lost before the export.
        gone_is_fault: Whether a snapshot that is not there is a fault: in an export, which names
            what was lost, but not in a store, from which old ones are deleted in order.
    """

    stores: Stores
    family: FamilyKey | None
    lost: Collection[str]
    gone_is_fault: bool
    manifests: int = 0
    opened: int = 0
    manifest_faults: list[str] = field(default_factory=list)
    chunk_faults: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def look(self, events: Iterable[JournalEvent]) -> tuple[CheckResult, CheckResult]:
        """The results for manifests and for chunks."""
        taken = [event for event in events if isinstance(event, CheckpointTaken | RunForked)]
        for event in taken:
            name = (
                f"Snapshot {printable(event.snapshot_id)}"
                if isinstance(event, CheckpointTaken)
                else "The snapshot that the fork began with"
            )
            try:
                self._manifest(event, f"{name} (event {event.sequence})")
            except (CorruptError, UsageError) as error:
                self.manifest_faults.append(
                    f"{name} (event {event.sequence}): {printable(str(error))}"
                )
        closed = [SNAPSHOT_KEY] if taken and self.family is None else []
        return (
            CheckResult(
                "Manifests of snapshots",
                "The SHA-256 of each manifest is the one that the journal names.",
                "manifests",
                self.manifests,
                tuple(self.manifest_faults),
                tuple(self.unchecked),
            ),
            CheckResult(
                "Chunks of snapshots",
                "Each chunk is opened (AES-256-GCM, NIST SP 800-38D), and the HMAC-SHA256 of its "
                "content is the address that its manifest names.",
                "chunks",
                self.opened,
                tuple(self.chunk_faults),
                tuple(closed),
            ),
        )

    def _manifest(self, event: CheckpointTaken | RunForked, name: str) -> None:
        if isinstance(event, CheckpointTaken) and event.snapshot_id in self.lost:
            self.unchecked.append(f"{name} was lost before the export.")
            return
        stored = self.stores.hot.get(event.address)
        if stored is None:
            said = f"{name} is not there: {printable(event.address)}."
            (self.manifest_faults if self.gone_is_fault else self.unchecked).append(said)
            return
        if hashlib.sha256(stored).hexdigest() != event.sha256:
            self.manifest_faults.append(f"{name} is not the one that the journal names.")
            return
        self.manifests += 1
        if self.family is not None:
            manifest = manifest_at(
                self.stores.hot, self.family, event.address, event.sha256, self.stores.limits
            )
            for chunk in chunks_in(manifest):
                self._chunk(chunk, self.family, name)

    def _chunk(self, chunk: chunks.Chunk, family: FamilyKey, name: str) -> None:
        key = chunk.key(family)
        if key in self._seen:
            return
        self._seen.add(key)
        try:
            chunks.get(self.stores.both, family, chunk, self.stores.limits.object)
            self.opened += 1
        except CorruptError as error:
            self.chunk_faults.append(f"{name}: {printable(str(error))}")


@dataclass(slots=True)
class KernelChecks:
    """Checks kernels: `content_of` gives the plain bytes of an artefact, None where it is nowhere.

    `published` has the SHA-256 of artefacts as the foundry published them, by kernel.
    """

    published: dict[str, str] = field(default_factory=dict)
    copies: dict[str, KernelCopy] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def take(self, kernel_id: str, content: bytes | None) -> None:
        """Look at one artefact."""
        if content is None:
            self.unchecked.append(f"Kernel {printable(kernel_id)} is not at hand.")
            return
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            artefact = read(content, kernel_id=kernel_id, sha256=sha256)
        except CorruptError as error:
            self.faults.append(printable(str(error)))
            return
        if (named := self.published.get(kernel_id, sha256)) != sha256:
            self.faults.append(
                f"Kernel {kernel_id} has SHA-256 {sha256}, and was published with "
                f"{printable(named)[:64]}."
            )
        blueprint = artefact.ir
        self.copies[kernel_id] = KernelCopy(
            sha256=sha256,
            size_bytes=len(content),
            family=blueprint.family,
            blueprint_id=blueprint.blueprint_id,
            blueprint=blueprint.json,
            parameters=blueprint.parameters,
            flops=blueprint.flops,
        )

    @property
    def result(self) -> CheckResult:
        """The result of the check."""
        return CheckResult(
            "Kernels",
            "The id of each grafted kernel is the SHA-256 over its blueprint and first weights, "
            "computed anew; where its publication is at hand, so is the SHA-256 of its file.",
            "kernels",
            len(self.copies),
            tuple(self.faults),
            tuple(self.unchecked),
        )
