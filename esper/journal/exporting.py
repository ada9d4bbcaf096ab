"""A run carried out of its installation: everything that proving it years later takes,
in a folder.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from esper.checkpoint.manifest import Stores, chunks_in, manifest_at
from esper.checkpoint.retention import family_of
from esper.checkpoint.tensors import open_cold
from esper.clock import Clock
from esper.config import Settings
from esper.disk import make_folder
from esper.errors import CorruptError, EsperError, StorageFullError, UsageError
from esper.events import Event, JournalEvent
from esper.events.codec import schema_id
from esper.events.records import (
    RECORDS,
    CheckpointTaken,
    KernelPublished,
    KernelValidated,
    RunForked,
    RunStarted,
    SeedTransitioned,
)
from esper.events.schemas import wire_schema
from esper.events.seals import fingerprint, key_in
from esper.history.queries import QuerySource
from esper.history.tables.ddl import snake
from esper.journal.portable import MANIFEST, SIGNERS, Content, key_of, sha256_of
from esper.journal.provenance import DATA, SOURCE
from esper.journal.reading import JOURNAL, to_file
from esper.service.transport.signing import pem_of
from esper.urza.artefact import address_of
from esper.urza.local import LocalStore
from esper.urza.opening import open_store
from esper.urza.sealed import open_kernels
from esper.urza.store import Store
from esper.vault.family_keys import FamilyKey, opened, rewrap
from esper.vault.masters import Masters, masters

OF_KERNELS: Final[tuple[type[Event], ...]] = (KernelPublished, KernelValidated)
"""Records of the foundry, which belong to a kernel, and so to any run that grafts it."""
README = """An exported run of Esper. `esper import DIR --check` verifies it, `esper import DIR`
takes it into an installation, `esper replay verify RUN --from DIR` proves it by re-executing it.

manifest.json   what the run is, and the SHA-256 of every other file
journal.avro    its journal: Avro container, one datum {value: bytes} a message;
                value = 0, schema id (4 bytes, big endian), Avro datum
schemas/        the Avro schemas of those ids
signers/        the public keys (Ed25519) that the events of the journal are signed with
store/          snapshots, sealed by AES-256-GCM under the family's key, which lies wrapped in
                store/families; kernels as safetensors
data/           the data that it trained on, as safetensors
source/         source files of functions of its user's own that it called
history/        its rows in each table of the history, and the foundry's of its kernels, as Parquet
"""


def grafted(events: Iterable[JournalEvent]) -> list[str]:
    """Ids of the kernels that a run grafted, sorted."""
    return sorted(
        {
            event.kernel_id
            for event in events
            if isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING"
        }
    )


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has: files and bytes in all, and what of the run was lost before, a sentence
    each.
    """

    folder: Path
    files: int
    size_bytes: int
    sha256: str
    notes: tuple[str, ...]


@dataclass(slots=True)
class Exporting:
    """Carries one run out. `history` may be None: then there are no Parquet files."""

    settings: Settings
    events: Sequence[JournalEvent]
    messages: Sequence[bytes]
    data: Sequence[Path]
    history: QuerySource | None
    clock: Clock
    passphrase: str = ""
    progress: Callable[[str], None] = lambda _: None
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def to(self, folder: Path) -> Exported:
        """Write the export, whole or not at all.

        Raises:
            UsageError: the folder is there and not empty, or the run's snapshots cannot be opened
                for want of a key.
            StorageFullError: there is no room.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists already; name a new folder with --to.")
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            (part / "store").mkdir(parents=True)
            self._fill(part)
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        except OSError as error:
            raise StorageFullError(
                f"The export cannot be written to {folder}: {error.strerror}."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return Exported(
            folder,
            len(paths),
            sum(path.stat().st_size for path in paths),
            sha256_of(folder / MANIFEST),
            tuple(self.notes),
        )

    @property
    def _run_dir(self) -> Path:
        return self.settings.runs_dir / self.events[0].run_id

    def _fill(self, part: Path) -> None:
        started = self.events[0]
        assert isinstance(started, RunStarted)  # noqa: S101  # evolve refused anything else
        self.progress("journal")
        to_file(part / JOURNAL, self.messages)
        self._schemas(part / "schemas")
        self._signers(part / SIGNERS)
        self.progress("snapshots")
        family = family_of(self.events)
        salt, master_key = self._store(part / "store", family)
        self.progress("kernels")
        self._kernels(part / "store")
        for folder, paths in (
            (DATA, self.data),
            (SOURCE, sorted((self._run_dir / SOURCE).glob("*.py"))),
        ):
            for path in paths:
                (part / folder).mkdir(exist_ok=True)
                shutil.copyfile(path, part / folder / path.name)
        if self.history is not None:
            self._tables(part / "history", self.history)
        else:
            self.notes.append("There is no history here, so the export has no tables.")
        (part / "README.txt").write_text(README)
        content = Content(
            run_id=started.run_id,
            family=family,
            events=len(self.events),
            salt=salt,
            master_key=master_key,
            made_at_us=self.clock.now_us(),
            versions={name: metadata.version(name) for name in ("esper", "torch", "safetensors")},
            lost=self.lost,
            files={
                path.relative_to(part).as_posix(): sha256_of(path)
                for path in sorted(part.rglob("*"))
                if path.is_file()
            },
        )
        # Last: a folder without it is no export.
        (part / MANIFEST).write_text(content.text())

    def _schemas(self, folder: Path) -> None:
        folder.mkdir()
        for number in sorted({schema_id(value) for value in self.messages}):
            wire = wire_schema(number)
            (folder / f"{wire.record.NAME}-{number}.avsc").write_text(
                json.dumps(wire.schema, indent=2) + "\n"
            )

    def _signers(self, folder: Path) -> None:
        """The public keys that verify the journal; none, where it is not signed."""
        for key in sorted({event.signer for event in self.events} - {""}):
            folder.mkdir(exist_ok=True)
            (folder / f"{fingerprint(key)}.pub.pem").write_bytes(pem_of(key_in(key)))

    def _store(self, folder: Path, family: str) -> tuple[str, str]:
        """Copy the snapshots and the family's key.

        Gives the salt of the passphrase and the id of the key that wraps it, or nothing.
        """
        taken = [event for event in self.events if isinstance(event, CheckpointTaken | RunForked)]
        if not taken:
            return "", ""
        source, keys = open_store(self.settings), masters(self.settings)
        opened_family = opened(source, keys, family)
        if opened_family is None:
            raise UsageError(
                f"The key of the snapshots of {family} is not in "
                f"{self.settings.store_location}; restore it, or nothing can read them."
            )
        with _kept(folder) as store:
            for event in taken:
                self._snapshot(
                    Stores(source, open_cold(self.settings)), store, opened_family, event
                )
            (wrapped,) = [
                key
                for key in source.list(f"families/{opened_family.id}/")
                if keys.by_id(key.rpartition("/")[2])
            ][:1]
            _copy([source], store, wrapped)
            if not self.passphrase:
                return "", wrapped.rpartition("/")[2]
            salt = secrets.token_hex(16)
            # The passphrase wraps the family's key alone, so chunks are not sealed anew, and the
            # master key of the installation stays here.
            own = key_of(self.passphrase, salt)
            rewrap(store, Masters((own, *keys.keys), "the passphrase"))
            return salt, own.id

    def _snapshot(
        self, sources: Stores, store: Store, family: FamilyKey, event: CheckpointTaken | RunForked
    ) -> None:
        name = event.snapshot_id if isinstance(event, CheckpointTaken) else "of the parent run"
        try:
            manifest = manifest_at(sources.hot, family, event.address, event.sha256)
            # As they are, still sealed: neither their key nor the memory of their tensors is
            # needed.
            keys = [event.address, *(chunk.key(family) for chunk in chunks_in(manifest))]
            for key in keys:
                _copy(sources.both, store, key)
        except CorruptError as error:
            self.lost.append(name)
            self.notes.append(f"Snapshot {name} is not exported: {error}")

    def _kernels(self, folder: Path) -> None:
        kernels = grafted(self.events)
        if not kernels:
            return
        source, own = open_kernels(self.settings), self._run_dir / "kernels"
        for kernel_id in kernels:
            address = address_of(kernel_id)
            path, target = own / f"{kernel_id}.safetensors", folder / address
            try:  # in the clear: whoever has the folder proves the run without any key
                content = (
                    # the run's own copy first: the store may have lost its
                    source.box.opened(address, path.read_bytes())
                    if path.is_file()
                    else source.get(address)
                )
            except CorruptError:
                content = None
            if content is None:
                self.notes.append(
                    f"Kernel {kernel_id} is lost, so steps after its graft can only be "
                    "reached from a snapshot that has it."
                )
                continue
            make_folder(target.parent)
            target.write_bytes(content)

    def _tables(self, folder: Path, history: QuerySource) -> None:
        folder.mkdir()
        of_run = ("run_id = {run:String}", {"param_run": self.events[0].run_id})
        # ids by now: each was the name of a file. What the foundry says of a kernel is of no run.
        ids = ",".join(f"'{kernel}'" for kernel in grafted(self.events))
        of_kernels = ("has({kernels:Array(String)}, kernel_id)", {"param_kernels": f"[{ids}]"})
        for record in RECORDS:
            table = snake(record.NAME)
            condition, given = of_kernels if record in OF_KERNELS else of_run
            self.progress(f"history {table}")
            try:
                (counted,) = history.rows(
                    f"SELECT count() AS rows FROM {table} WHERE {condition}",  # noqa: S608  # a table's name
                    given,
                )
                if int(counted["rows"]):
                    content = history.ask(
                        f"SELECT * FROM {table} WHERE {condition}",  # noqa: S608  # as above
                        "Parquet",
                        given,
                    )
                    (folder / f"{table}.parquet").write_bytes(content)
            except EsperError as error:
                self.notes.append(f"Table {table} could not be read: {error}")


@contextmanager
def _kept(folder: Path) -> Iterator[LocalStore]:
    """A store in a folder, without what it keeps for itself afterwards."""
    yield LocalStore(folder)
    shutil.rmtree(folder / ".incoming", ignore_errors=True)


def _copy(sources: Sequence[Store], target: Store, key: str) -> None:
    """Copy one object as it is, from the first store that has it.

    Raises:
        CorruptError: none has it.
    """
    # snapshots share chunks
    if target.exists(key):
        return
    content = next((stored for source in sources if (stored := source.get(key)) is not None), None)
    if content is None:
        raise CorruptError(f"{key} is not in the store.")
    target.put_if_absent(key, content)
