"""What the report of a run is made of: its journal, the records beside it, and results of checks.

Pure. Nothing in here names a path, a clock or the machine that reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from esper.events import Event, JournalEvent

Kind = TypeVar("Kind", bound=Event)
CheckStatus = Literal["verified", "verified in part", "not checked", "failed"]
EXPORT: Final = "an export"
INSTALLATION: Final = "the installation that trained it, or took it in"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: What was looked at.
        method: How, with the algorithms, in a sentence.
        unit: What is counted, in the plural.
        verified: How many held.
        faults: What does not hold, a sentence each, which names the thing at fault.
        unchecked: What could not be checked, and why, a sentence each.
        notes: What a reader should know and is no fault, a sentence each.
    """

    name: str
    method: str
    unit: str
    verified: int
    faults: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> CheckStatus:
        """The result in a word or two."""
        if self.faults:
            return "failed"
        if not self.unchecked:
            return "verified"
        return "verified in part" if self.verified else "not checked"


@dataclass(frozen=True, slots=True)
class KernelCopy:
    """What a kernel's artefact says, once its id was computed anew from weights and blueprint.

    `flops` are operations of one forward for one sample, as `esper.karn.operators` counts them;
    `blueprint` is canonical JSON.
    """

    sha256: str
    size_bytes: int
    family: str
    blueprint_id: str
    blueprint: str
    parameters: int
    flops: int


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that a report is computed from: equal material gives equal bytes.

    Attributes:
        run_id: The run.
        source: `EXPORT` or `INSTALLATION`: where all this was read.
        journal: The events that are believed, in order.
        head: SHA-256 of the last event, hexadecimal; empty in a journal without signatures.
        signers: Fingerprints of the keys that signed the journal, in order.
        records: Records of other topics: answers of Tamiyo, kernels, requests, notes.
        read: Names of the records that were looked for where `records` come from.
        kernels: Artefacts of grafted kernels that are at hand and whole, by id.
        checks: What was verified.
    """

    run_id: str
    source: str
    journal: tuple[JournalEvent, ...]
    head: str = ""
    signers: tuple[str, ...] = ()
    records: tuple[Event, ...] = ()
    read: frozenset[str] = frozenset()
    kernels: Mapping[str, KernelCopy] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()

    def every(self, kind: type[Kind]) -> list[Kind]:
        """The records of one kind, in the order of their times."""
        found = [record for record in self.records if isinstance(record, kind)]
        return sorted(found, key=lambda record: (record.occurred_at, record.event_id))
