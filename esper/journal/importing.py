"""An exported run taken into an installation: its objects into the store, its journal into Kafka,
from where the history gets it.

An import brings in what the journal needs and has verified, under names that this side makes:
objects of the store by the journal's snapshots and grafts, files below `runs/RUN`. What else an
export holds is not looked at, so that it can neither take the place of another run's objects nor
name any for a sweep to delete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from esper.checkpoint import chunks
from esper.checkpoint.collection import no_sweep
from esper.checkpoint.manifest import chunks_in, manifest_at
from esper.checkpoint.retention import Pins
from esper.clock import Clock
from esper.config import Settings
from esper.disk import write_file
from esper.errors import CorruptError, EsperError, UsageError, printable
from esper.events import JournalEvent
from esper.events.codec import Message
from esper.events.records import CheckpointTaken, RunForked, SeedTransitioned
from esper.events.seals import OfRun, Trust, restored
from esper.journal.portable import MANIFEST, Export, require_snapshots, sha256_of
from esper.journal.provenance import DATA, SOURCE, Provenance, note
from esper.oona.bus.port import Bus
from esper.oona.durable.authentic import Judge, judged
from esper.oona.durable.journal_reader import read
from esper.service.transport import signing
from esper.urza.artefact import address_of
from esper.urza.artefact import read as read_artefact
from esper.urza.opening import open_store
from esper.urza.sealed import open_kernels
from esper.vault.family_keys import FamilyKey, any_in, keep, opened
from esper.vault.masters import held, masters

_HOUR_US = 3_600_000_000
_A_COMMIT = 500  # events a transaction: far below what its time limit allows


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported: events written to Kafka now, and objects that the store had not."""

    run_id: str
    events: int
    objects: int


@dataclass(slots=True)
class Importing:
    """Takes one verified export in. `say` has what of it is left out, a sentence each."""

    settings: Settings
    export: Export
    clock: Clock
    passphrase: str = ""
    progress: Callable[[str], None] = field(default=lambda _: None)
    say: Callable[[str], None] = field(default=lambda _: None)

    def check(self) -> list[JournalEvent]:
        """The journal of the export, folded, with its snapshots compared.

        Raises:
            CorruptError: the journal or a snapshot was changed.
        """
        events = self.export.events()
        require_snapshots(self.export, events)
        return events

    def into(self, bus: Bus) -> Imported:
        """Take the run in, and pin it: its snapshots may be older than any that are kept.

        A call that was interrupted is finished by the next one.

        Raises:
            UsageError: the run is here already, another run has its name, its snapshots have no key
                here, or the store is being swept.
            CorruptError: as `check`; or an object is damaged, or the store has another key for the
                run's family.
            UnavailableError: no broker answers, or the store cannot be used.
        """
        events, run_id = self.check(), self.export.content.run_id
        # An import that was killed has committed a prefix; only the very same events are gone on
        # with.
        have = [
            event.event_id
            for event, _ in judged(
                read(bus, run_id, clock=self.clock), Judge(run_id, self._trust(events))
            )
        ]
        if have and (
            len(have) >= len(events) or have != [event.event_id for event in events[: len(have)]]
        ):
            raise UsageError(
                f"There is a run {run_id} on this Kafka already; nothing was imported."
            )
        # Before the journal: a run that Kafka knows must have all that its journal names.
        self._files(self.settings.runs_dir / run_id)
        self.progress("snapshots and kernels")
        with no_sweep(self.settings):  # which might be about to delete what is there already
            Pins(open_store(self.settings)).add(run_id)
            objects = self._objects(events)
        self.progress("journal")
        self._believe(
            events, until_us=self.clock.now_us() + _HOUR_US
        )  # what is unsigned on Kafka is not believed, but for this
        self._journal(bus, events[len(have) :])
        # The broker's own time of what was written: clocks of two machines differ, so ours would
        # leave a gap.
        values = {restored(event).value for event in events}
        written_us = max(
            received.timestamp_us
            for received in read(bus, run_id, clock=self.clock)
            if received.value in values
        )
        self._believe(events, until_us=written_us + 1)
        return Imported(run_id, len(events) - len(have), objects)

    def _trust(self, events: Sequence[JournalEvent]) -> Trust:
        """What is believed of the run already: the keys of the export, and what an import that was
        interrupted has left.
        """
        own, run_id = signing.trust(self.settings.keys_dir), events[0].run_id
        before = own.runs.get(run_id, OfRun())
        keys = frozenset(event.signer for event in events if event.signer)
        return replace(own, runs={**own.runs, run_id: replace(before, keys=before.keys | keys)})

    def _believe(self, events: Sequence[JournalEvent], *, until_us: int) -> None:
        """Believe the run's own signers from now on, and what is unsigned of it up to a time of the
        broker's.
        """
        unsigned = not all(event.signer for event in events)
        signers = {event.signer for event in events if event.signer}
        signing.believe_run(
            self.settings.keys_dir,
            events[0].run_id,
            signers,
            unsigned_until_us=until_us if unsigned else 0,
        )

    def _files(self, run_dir: Path) -> None:
        """The run's own files; origin.json first."""
        export = self.export
        data = {
            name.rpartition("/")[2]: export.content.files[name]
            for name in export.named(DATA, ".safetensors")
        }
        note(
            run_dir,
            Provenance(str(export.folder.resolve()), sha256_of(export.folder / MANIFEST), data),
        )
        for folder, ending in ((DATA, ".safetensors"), (SOURCE, ".py")):
            for name in export.named(folder, ending):
                write_file(run_dir / name, export.read(name, export.limits.file))

    def _objects(self, events: Sequence[JournalEvent]) -> int:
        """Bring in the snapshots that the journal names and the kernels that it grafts.

        Gives how many objects were new.
        """
        family, kernels = self._family(), list(self._kernels(events))
        # The key of kernels is made only where there is one to seal.
        store = open_kernels(self.settings) if kernels else open_store(self.settings)
        return sum(
            store.put_if_absent(key, content)
            for part in (kernels, self._snapshots(events, family))
            for key, content in part
        )

    def _family(self) -> FamilyKey | None:
        """The key of the run's snapshots, kept here under the installation's own master key.

        None where the export has none.
        """
        content, store = self.export.content, open_store(self.settings)
        if not content.master_key:
            return None
        theirs = opened(
            self.export.store, self.export.masters(self.settings, self.passphrase), content.family
        )
        if theirs is None:
            raise CorruptError(
                f"The export in {self.export.folder} lacks the key of its snapshots."
            )
        with held(self.settings.master_key_path):
            # A new master key beside family keys that an old one wraps would lock those out.
            own = masters(self.settings, make=not any_in(store))
            ours = opened(store, own, content.family)
            if ours is not None and ours.key != theirs.key:
                raise CorruptError(
                    f"The store has another key for the family {content.family}, which is "
                    "of another run of that name; import it elsewhere."
                )
            if ours is None:
                keep(store, own, theirs)
        return theirs

    def _snapshots(
        self, events: Sequence[JournalEvent], family: FamilyKey | None
    ) -> Iterator[tuple[str, bytes]]:
        """Objects of the run's snapshots, every chunk before its manifest.

        One that is damaged is left out, as if it had been lost.
        """
        source, limits = self.export.store, self.export.limits
        taken = [event for event in events if isinstance(event, CheckpointTaken | RunForked)]
        for event in taken if family else ():
            try:
                assert family is not None  # noqa: S101  # there would be no events
                manifest = manifest_at(source, family, event.address, event.sha256, limits)
                for chunk in chunks_in(manifest):
                    # Opened once to prove it: a damaged chunk must not be stored under an address
                    # that others rely on.
                    chunks.get((source,), family, chunk, limits.object)
                    yield chunk.key(family), source.get(chunk.key(family)) or b""
                yield event.address, source.get(event.address) or b""
            except (CorruptError, UsageError) as error:
                self.say(f"A snapshot of the export is left out: {printable(str(error))}")

    def _kernels(self, events: Sequence[JournalEvent]) -> Iterator[tuple[str, bytes]]:
        """The artefacts that the run grafted, each proved by its id."""
        grafted = {
            event.kernel_id
            for event in events
            if isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING"
        }
        for kernel_id in sorted(grafted):
            try:
                content = self.export.store.get(address_of(kernel_id))
                if content is not None:
                    read_artefact(
                        # its own digest: the id, made of weights and blueprint, is the proof
                        content,
                        kernel_id=kernel_id,
                        sha256=hashlib.sha256(content).hexdigest(),
                    )
                    yield address_of(kernel_id), content
            except EsperError as error:
                self.say(
                    f"Kernel {printable(kernel_id)} of the export is left out: "
                    f"{printable(str(error))}"
                )

    def _journal(self, bus: Bus, events: Sequence[JournalEvent]) -> None:
        with bus.journal_producer(run_id=self.export.content.run_id) as producer:
            producer.begin(30.0)
            for first in range(0, len(events), _A_COMMIT):
                batch: list[Message] = [
                    restored(event) for event in events[first : first + _A_COMMIT]
                ]
                producer.commit(batch)
