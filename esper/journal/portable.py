"""A run in a folder of its own, readable without the installation that it comes from: layout, hashes, and the key of its snapshots.

manifest.json      what the run is, how its snapshots are opened, and the SHA-256 of every other file
journal.avro       the messages of its journal as they stand on Kafka, in an Avro container
schemas/           the schemas that they are written with, by record and id
store/             snapshots (sealed), the family's key (wrapped), kernels
data/              the data that it trained on
history/           the rows of the run in each table of the history, as Parquet
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from esper.checkpoint import TensorStore
from esper.checkpoint.families import Family, opened
from esper.checkpoint.masters import MasterKey, Masters, masters
from esper.checkpoint.sealing import KEY_BYTES
from esper.config import Settings
from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken
from esper.journal.reading import decoded, from_file
from esper.lifecycle import fold
from esper.urza.store import Listed, Store, require_key

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
JOURNAL: Final = "journal.avro"
_SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 1}  # 32 MiB and about 0.1 s a guess (RFC 7914)
_PART: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What manifest.json says. `salt` is of the passphrase that wraps the family's key, empty where the installation's master key does."""

    run_id: str
    family: str
    events: int
    salt: str
    master_key: str
    made_at_us: int
    versions: dict[str, str]
    lost: list[str]
    files: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


class FolderStore(Store):
    """An object store that is only read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Never."""
        raise UsageError(f"{self.root} is part of an export, in which nothing is changed: {key} ({len(content)} bytes) was not written.")

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`."""
        path = self.root / require_key(key)
        return path.read_bytes() if path.is_file() else None

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return (self.root / require_key(key)).is_file()

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted; see `Store`."""
        for path in sorted(path for path in self.root.rglob("*") if path.is_file()):
            if (key := path.relative_to(self.root).as_posix()).startswith(prefix):
                status = path.stat()
                yield Listed(key, status.st_size, status.st_mtime_ns // 1000)

    def delete(self, key: str) -> bool:
        """Never."""
        raise UsageError(f"{self.root} is part of an export, in which nothing is changed: {key} was not removed.")


@dataclass(frozen=True, slots=True)
class Export:
    """An exported run in `folder`."""

    folder: Path
    content: Content

    @property
    def store(self) -> FolderStore:
        """Its objects."""
        return FolderStore(self.folder / "store")

    def events(self) -> list[JournalEvent]:
        """Its journal, whole and in order.

        Raises:
            CorruptError: the journal was changed, or is shorter than manifest.json says.
        """
        found = decoded(self.content.run_id, from_file(self.folder / JOURNAL))
        fold(self.content.run_id, found)
        if len(found) != self.content.events:
            raise CorruptError(f"{self.folder / JOURNAL} has {len(found)} events, and {MANIFEST} says {self.content.events}.")
        return found

    def masters(self, settings: Settings, passphrase: str) -> Masters:
        """The keys that open its family's key: made from the passphrase, or those of the installation.

        Raises:
            UsageError: it needs a passphrase and there is none, or another one, or the installation has no key.
        """
        if not self.content.salt:
            return masters(settings)
        if not passphrase:
            raise UsageError(f"The snapshots in {self.folder} are sealed under a passphrase; give its file with --passphrase-file.")
        key = key_of(passphrase, self.content.salt)
        if key.id != self.content.master_key:
            raise UsageError(f"The passphrase is not the one that the export in {self.folder} was made with.")
        return Masters((key,), "the passphrase")

    def tensors(self, settings: Settings, passphrase: str) -> TensorStore:
        """Its snapshots; raises as `masters` does."""
        family = opened(self.store, self.masters(settings, passphrase), self.content.family) if self.content.master_key else None
        return TensorStore(self.store, family or Family(self.content.family, bytes(KEY_BYTES)))  # without snapshots there is no key


def key_of(passphrase: str, salt: str) -> MasterKey:
    """The key that a passphrase gives (scrypt, RFC 7914)."""
    return MasterKey(Scrypt(salt=bytes.fromhex(salt), length=KEY_BYTES, **_SCRYPT).derive(passphrase.encode()))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def opened_export(folder: Path, *, told: Callable[[int, int], None] = lambda _, __: None) -> Export:
    """An export whose every file is what manifest.json says; `told` has files done and files in all.

    Raises:
        UsageError: there is no export.
        CorruptError: a file is missing, changed or too many; the sentence names it.
    """
    path = folder / MANIFEST
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        version = raw.pop("format")
        content = Content(**raw)
    except OSError as error:
        raise UsageError(f"{folder} holds no export: {MANIFEST} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if version != FORMAT:
        raise UsageError(f"{folder} is an export of format {version}; this Esper reads format {FORMAT}.")
    there = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()} - {MANIFEST}
    if odd := sorted(there - content.files.keys()):
        raise CorruptError(f"{folder / odd[0]} is no part of this export: {MANIFEST} does not name it.")
    for number, (name, sha256) in enumerate(sorted(content.files.items())):
        told(number, len(content.files))
        if name not in there:
            raise CorruptError(f"{folder / name} is missing from this export.")
        if sha256_of(folder / name) != sha256:
            raise CorruptError(f"{folder / name} was changed: it has another hash than {MANIFEST} gives.")
    return Export(folder, content)


def require_snapshots(export: Export, events: list[JournalEvent]) -> None:
    """That each snapshot of the journal is there as the journal has it, but for those that were lost before the export.

    Raises:
        CorruptError: one is not.
    """
    for event in events:
        if isinstance(event, CheckpointTaken) and event.snapshot_id not in export.content.lost:
            found = export.store.get(event.address)
            if found is None or hashlib.sha256(found).hexdigest() != event.sha256:
                raise CorruptError(f"Snapshot {event.snapshot_id} in {export.folder} is not the one of the journal.")
