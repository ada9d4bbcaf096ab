"""An exported run taken into an installation: its objects into the store, its journal into Kafka, from where the history gets it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from esper.checkpoint.collection import no_sweep
from esper.checkpoint.families import any_in, opened, rewrap
from esper.checkpoint.masters import Masters, held, masters
from esper.checkpoint.retention import Pins
from esper.clock import Clock
from esper.config import Settings
from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent, decode
from esper.events.codec import Message, encode
from esper.journal.portable import Export, require_snapshots
from esper.oona.journal import read
from esper.oona.port import Bus
from esper.urza.opening import open_store

_A_COMMIT = 500  # events a transaction: far below what its time limit allows


@dataclass(frozen=True, slots=True)
class Imported:
    """What came in: events written to Kafka now, and objects that the store had not."""

    run_id: str
    events: int
    objects: int


@dataclass(slots=True)
class Importing:
    """Takes one verified export in."""

    settings: Settings
    export: Export
    clock: Clock
    passphrase: str = ""
    told: Callable[[str], None] = field(default=lambda _: None)

    def check(self) -> list[JournalEvent]:
        """The journal of the export, folded, with its snapshots compared.

        Raises:
            CorruptError: the journal or a snapshot was changed.
        """
        events = self.export.events()
        require_snapshots(self.export, events)
        return events

    def into(self, bus: Bus) -> Imported:
        """Take the run in, and pin it: its snapshots may be older than any that are kept. A call that was interrupted is finished by the next one.

        Raises:
            UsageError: the run is here already, another run has its name, its snapshots have no key here, or the store is being swept.
            CorruptError: as `check`; or the store has another key for the run's family.
            UnavailableError: no broker answers, or the store cannot be used.
        """
        events = self.check()
        have = [decode(received.value, received.headers).event_id for received in read(bus, self.export.content.run_id, clock=self.clock)]
        if have and (len(have) >= len(events) or have != [event.event_id for event in events[: len(have)]]):
            raise UsageError(f"There is a run {self.export.content.run_id} on this Kafka already; nothing was imported.")
        self.told("snapshots and kernels")
        with no_sweep(self.settings):  # which might be about to delete what is there already
            Pins(open_store(self.settings)).add(self.export.content.run_id)
            objects = self._objects()
        data = self.settings.home.resolve() / "data"
        for path in (self.export.folder / "data").glob("*"):
            data.mkdir(parents=True, exist_ok=True)
            if not (data / path.name).exists():
                shutil.copyfile(path, data / path.name)
        self.told("journal")
        self._journal(bus, events[len(have) :])
        return Imported(self.export.content.run_id, len(events) - len(have), objects)

    def _objects(self) -> int:
        store, source, content = open_store(self.settings), self.export.store, self.export.content
        if content.master_key:
            with held(self.settings.master_key_path):
                own = masters(self.settings, make=not any_in(store))
                both = Masters((*own.keys, *self.export.masters(self.settings, self.passphrase).keys), own.source)
                theirs, ours = opened(source, both, content.family), opened(store, own, content.family)
                if theirs is None:
                    raise CorruptError(f"The export in {self.export.folder} lacks the key of its snapshots.")
                if ours is not None and ours.key != theirs.key:
                    raise CorruptError(
                        f"The store has another key for the family {content.family}, which is of another run of that name; import it elsewhere."
                    )
                if ours is None:
                    for key in source.list("families/"):
                        store.put_if_absent(key, source.get(key) or b"")
                    rewrap(store, both)
        return sum(store.put_if_absent(key, source.get(key) or b"") for key in source.list() if not key.startswith("families/"))

    def _journal(self, bus: Bus, events: Sequence[JournalEvent]) -> None:
        with bus.journal_producer(run_id=self.export.content.run_id) as producer:
            producer.begin(30.0)
            for first in range(0, len(events), _A_COMMIT):
                batch: list[Message] = [encode(event) for event in events[first : first + _A_COMMIT]]
                producer.commit(batch)
