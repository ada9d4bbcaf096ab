"""A run in a folder of its own, readable without the installation that it comes from: layout,
hashes, and the key of its snapshots.

- manifest.json: what the run is, how its snapshots are opened, the SHA-256 of every other file
- journal.avro: the messages of its journal as they stand on Kafka, in an Avro container
- signers/: the public keys that its events are signed with
- schemas/: the schemas that they are written with, by record and id
- store/: snapshots (sealed), the family's key (wrapped), kernels
- data/: the data that it trained on
- source/: the source files of functions of its user's own that it ran
- history/: the rows of the run in each table of the history, and the foundry's of the kernels that
  it grafted, as Parquet
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from esper.bounded import (
    DEFAULT,
    Limit,
    Limits,
    avro_values,
    json_of,
    open_in,
    read_in,
    require_plain_name,
    walked,
)
from esper.bounded.names import RUN_ID, SHA256
from esper.checkpoint import TensorStore
from esper.checkpoint.retention import family_of
from esper.config import Settings
from esper.errors import CorruptError, KeyMissingError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken
from esper.events.seals import TRAINER, Trust, fingerprint
from esper.journal.reading import JOURNAL, WRITTEN, decoded_whole
from esper.service.transport.signing import public_text
from esper.urza.store import Listed, Store, require_key
from esper.vault.family_keys import FamilyKey, opened
from esper.vault.masters import MasterKey, Masters, masters
from esper.vault.sealing import KEY_BYTES

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SIGNERS: Final = "signers"
_SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 1}  # 32 MiB and about 0.1 s a guess (RFC 7914)
_PART: Final = 1 << 20

RunId = Annotated[str, Field(pattern=f"^{RUN_ID}$")]
_OWN: Final = "of this installation"
_STRANGE: Final = "which this installation does not know"


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True, slots=True)
class Content:
    """What manifest.json says.

    `salt` is of the passphrase that wraps the family's key, empty where the installation's master
    key does.
    """

    run_id: RunId
    family: RunId
    events: Annotated[int, Field(ge=1)]
    salt: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,32}$")]
    master_key: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
    made_at_us: Annotated[int, Field(ge=0, lt=1 << 63)]
    versions: dict[str, str]
    lost: list[str]
    files: dict[str, Annotated[str, Field(pattern=f"^{SHA256}$")]] = field(default_factory=dict)

    def text(self) -> str:
        """The file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


_CONTENT: Final = TypeAdapter(Content)


@dataclass(frozen=True, slots=True)
class FolderStore(Store):
    """The objects of an export.

    They are only read, and each time held against the hash that manifest.json gives.
    """

    export: Export

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Never."""
        raise UsageError(
            f"{self.export.folder} is an export, in which nothing is changed: {key} "
            f"({len(content)} bytes) was not written."
        )

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`.

        Raises:
            CorruptError: the object was changed since the export was opened, or is larger than the
                limits allow.
        """
        name = f"store/{require_key(key)}"
        return (
            self.export.read(name, self.export.limits.object)
            if name in self.export.content.files
            else None
        )

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return f"store/{require_key(key)}" in self.export.content.files

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted; see `Store`."""
        for name in sorted(self.export.content.files):
            key = name.removeprefix("store/")
            if key != name and key.startswith(prefix):
                yield Listed(key, self.export.sizes[name], self.export.content.made_at_us)

    def delete(self, key: str) -> bool:
        """Never."""
        raise UsageError(
            f"{self.export.folder} is an export, in which nothing is changed: {key} was "
            "not removed."
        )


@dataclass(frozen=True, slots=True)
class Export:
    """An exported run in `folder`, as it was when it was opened: `sizes` in bytes by name.

    Nothing is read of it but plain files, within `limits`.
    """

    folder: Path
    content: Content
    sizes: Mapping[str, int]
    limits: Limits

    @property
    def store(self) -> FolderStore:
        """Its objects."""
        return FolderStore(self)

    def read(self, name: str, limit: Limit) -> bytes:
        """A file of it that manifest.json names, whole.

        Raises:
            CorruptError: it was changed since the export was opened, or is larger than the limit.
        """
        try:
            content = read_in(self.folder, name, limit)
        except FileNotFoundError:
            raise CorruptError(f"{self.folder / name} is missing from this export.") from None
        if hashlib.sha256(content).hexdigest() != self.content.files[name]:
            raise CorruptError(
                f"{self.folder / name} was changed: it has another hash than {MANIFEST} gives."
            )
        return content

    def named(self, folder: str, ending: str = "") -> list[str]:
        """The names of the files directly in one of its folders, sorted."""
        return sorted(
            name
            for name in self.content.files
            if name.rpartition("/")[0] == folder and name.endswith(ending)
        )

    def events(self) -> list[JournalEvent]:
        """Its journal, whole and in order.

        Raises:
            CorruptError: the journal was changed, is shorter or longer than manifest.json says, or
                unpacks to more than the limits allow.
        """
        path, content = self.folder / JOURNAL, self.content
        if JOURNAL not in content.files:
            raise CorruptError(f"{path} is missing from this export.")
        with open_in(self.folder, JOURNAL, self.limits.file) as file:
            values = avro_values(
                file, WRITTEN, self.limits, str(path), sha256=content.files[JOURNAL]
            )
            events = decoded_whole(
                # one more than promised shows that there are too many, however many follow
                content.run_id,
                islice(values, content.events + 1),
                trust=self.trust(),
            )
            if len(events) == content.events:
                deque(values, maxlen=0)  # the hash is known at the end
        if len(events) != content.events:
            how = (
                f"{len(events)} events"
                if len(events) < content.events
                else f"more than {content.events} events"
            )
            raise CorruptError(f"{path} has {how}, and {MANIFEST} says {content.events}.")
        if family_of(events) != content.family:
            raise CorruptError(
                f"{path} is of the family {family_of(events)}, and {MANIFEST} says "
                f"{content.family}."
            )
        return events

    def trust(self) -> Trust:
        """The keys that the export itself names: whether they are anybody's whom you know, their
        fingerprints say.

        Raises:
            CorruptError: one is damaged.
        """
        keys = frozenset(
            public_text(self.read(name, self.limits.file), name)
            for name in self.named(SIGNERS, ".pub.pem")
        )
        return Trust(
            {TRAINER: keys}, {TRAINER: 1}
        )  # what precedes the first signed event may be of an earlier Esper

    def signed_sentence(self, events: Sequence[JournalEvent], own: Trust) -> str:
        """By whom its journal is signed, for people; `own` is what this installation believes."""
        signers = list(dict.fromkeys(event.signer for event in events if event.signer))
        if not signers:
            return (
                f"The journal in {self.folder} is not signed: nothing but its hashes says that "
                "it is as it was written."
            )
        known = own.keys(TRAINER)
        signed_by = [
            (f"{fingerprint(key)}, {_OWN if key in known else _STRANGE}") for key in signers
        ]
        return f"The journal in {self.folder} is signed by key {' and '.join(signed_by)}."

    def masters(self, settings: Settings, passphrase: str) -> Masters:
        """The keys that open its family's key: made from the passphrase, or those of the
        installation.

        Raises:
            KeyMissingError: it needs a passphrase and there is none, or the installation has
                another key or none.
            UsageError: the passphrase is another one.
        """
        if not self.content.salt:
            try:
                keys = masters(settings)
            except KeyMissingError:
                keys = None
            if keys is None or keys.by_id(self.content.master_key) is None:
                raise KeyMissingError(
                    f"The snapshots in {self.folder} are sealed under master key "
                    f"{self.content.master_key}, of the installation that it comes "
                    "from: name that key in ESPER_CHECKPOINTS__MASTER_KEY, or export the "
                    "run again there with --passphrase-file."
                )
            return keys
        if not passphrase:
            raise KeyMissingError(
                f"The snapshots in {self.folder} are sealed under a passphrase; give its "
                "file with --passphrase-file."
            )
        key = key_of(passphrase, self.content.salt)
        if key.id != self.content.master_key:
            raise UsageError(
                f"The passphrase is not the one that the export in {self.folder} was made with."
            )
        return Masters((key,), "the passphrase")

    def tensors(self, settings: Settings, passphrase: str) -> TensorStore:
        """Its snapshots; raises as `masters` does."""
        family = (
            opened(self.store, self.masters(settings, passphrase), self.content.family)
            if self.content.master_key
            else None
        )
        known = family or FamilyKey(
            self.content.family, bytes(KEY_BYTES)
        )  # without snapshots there is no key
        return TensorStore(self.store, known, limits=self.limits)


def key_of(passphrase: str, salt: str) -> MasterKey:
    """The key that a passphrase gives (scrypt, RFC 7914)."""
    return MasterKey(
        Scrypt(salt=bytes.fromhex(salt), length=KEY_BYTES, **_SCRYPT).derive(passphrase.encode())
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def opened_export(
    folder: Path,
    limits: Limits = DEFAULT,
    *,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> Export:
    """An export whose every file is what manifest.json says.

    `progress` has files done and files in all.

    Raises:
        UsageError: there is no export.
        CorruptError: a file is missing, changed, too many or too large, or no plain file; the
            sentence names it.
    """
    export = unverified_export(folder, limits)
    for name, fault in file_faults(export, progress=progress):
        raise CorruptError(f"{folder / name} {fault}")
    return export


def unverified_export(folder: Path, limits: Limits = DEFAULT) -> Export:
    """An export by its manifest alone: `file_faults` says which of its files are as they were.

    Each file that is read of it is held against the manifest then.

    Raises:
        UsageError: there is no export.
        CorruptError: its manifest is damaged, or something in the folder is no plain file.
    """
    path = folder / MANIFEST
    sizes = walked(folder, limits)
    if MANIFEST not in sizes:
        raise UsageError(f"{folder} holds no export: {MANIFEST} is not there.")
    content = _content(json_of(read_in(folder, MANIFEST, limits.json), limits, str(path)), path)
    for name in content.files:
        # before any is opened: whoever made the export chose the names
        require_plain_name(name, path)
    return Export(folder, content, sizes, limits)


def file_faults(
    export: Export, *, progress: Callable[[int, int], None] = lambda _, __: None
) -> Iterator[tuple[str, str]]:
    """Each file of an export that is not as its manifest says, and the rest of the sentence.

    `progress` has files done and files in all.
    """
    there, named = export.sizes.keys() - {MANIFEST}, export.content.files
    for name in sorted(there - named.keys()):
        yield name, f"is no part of this export: {MANIFEST} does not name it."
    for number, (name, sha256) in enumerate(sorted(named.items())):
        progress(number, len(named))
        if name not in there:
            yield name, "is missing from this export."
        elif _sha256_in(export.folder, name, export.limits) != sha256:
            yield name, f"was changed: it has another hash than {MANIFEST} gives."


def _content(raw: Any, path: Path) -> Content:
    """The manifest that a JSON value is."""
    if not isinstance(raw, dict) or "format" not in raw:
        raise CorruptError(f"{path} is damaged: it is no manifest of an export.")
    if (version := raw.pop("format")) != FORMAT:
        raise UsageError(
            f"{path.parent} is an export of format {printable(str(version)[:40])}; this "
            f"Esper reads format {FORMAT}."
        )
    try:
        return _CONTENT.validate_json(
            json.dumps(raw)
        )  # strict, which takes an object only out of JSON
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in first["loc"])[:80])
        raise CorruptError(
            f"{path} is damaged: {where} does not fit: {printable(first['msg'])}."
        ) from None


def _sha256_in(folder: Path, name: str, limits: Limits) -> str:
    with open_in(folder, name, limits.file) as file:
        digest = hashlib.sha256()
        while part := file.read(_PART):
            digest.update(part)
        return digest.hexdigest()


def require_snapshots(export: Export, events: list[JournalEvent]) -> None:
    """That each snapshot of the journal is there as the journal has it, but for those that were
    lost before the export.

    Raises:
        CorruptError: one is not.
    """
    for event in events:
        if isinstance(event, CheckpointTaken) and event.snapshot_id not in export.content.lost:
            stored = export.store.get(event.address)
            if stored is None or hashlib.sha256(stored).hexdigest() != event.sha256:
                raise CorruptError(
                    f"Snapshot {printable(event.snapshot_id)} in {export.folder} is not "
                    "the one of the journal."
                )
