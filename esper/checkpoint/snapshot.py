"""A snapshot: named tensors and notes. Its manifest is canonical JSON that names every chunk, sealed; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
import zstandard
from torch import Tensor

from esper.checkpoint import chunks
from esper.checkpoint.chunks import Chunk
from esper.checkpoint.families import Family
from esper.checkpoint.sealing import seal, unseal
from esper.errors import CorruptError
from esper.urza.store import Store

FORMAT: Final = 2
SMALL_BYTES: Final = 16 << 10  # tensors below this share a chunk with their neighbours of the same kind
READERS: Final = 4
_MAGIC: Final = b"ESM2"
_MOST_BYTES: Final = 1 << 30  # of a manifest, unpacked


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds. The first word of a tensor's name, before the slash, is its kind; `notes` is JSON."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot in the store: key and SHA-256 of its manifest, and what it cost."""

    address: str
    sha256: str
    tensors: int
    size_bytes: int
    stored_bytes: int


@dataclass(slots=True)
class _Entry:
    """A tensor in the manifest: `pieces` are (chunk, first byte, number of bytes) in order."""

    dtype: str
    shape: list[int]
    pieces: list[tuple[int, int, int]] = field(default_factory=list)


def write(store: Store, family: Family, snapshot: Snapshot) -> Stored:
    """Store a snapshot: every chunk, then the manifest; durable before it returns.

    Raises:
        StorageFullError: no room; what was stored already is garbage that nothing names.
        UnavailableError: the store cannot be reached.
    """
    entries = {name: _Entry(str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in snapshot.tensors.items()}
    listed: list[Chunk] = []
    stored = size = 0
    for names in _groups(snapshot.tensors):
        content = (
            memoryview(b"".join(_bytes(snapshot.tensors[name]) for name in names)) if len(names) > 1 else _bytes(snapshot.tensors[names[0]])
        )
        size += len(content)
        first = len(listed)
        for begin in range(0, max(len(content), 1), chunks.PIECE_BYTES):
            chunk, new = chunks.put(store, family, content[begin : begin + chunks.PIECE_BYTES])
            stored += new
            listed.append(chunk)
        at = 0
        for name in names:
            length = snapshot.tensors[name].numel() * snapshot.tensors[name].element_size()
            entries[name].pieces = [(first + number, begin, size) for number, begin, size in _pieces(at, length)]
            at += length
    manifest = {
        "format": FORMAT,
        "notes": snapshot.notes,
        "chunks": [asdict(chunk) for chunk in listed],
        "tensors": {name: asdict(entry) for name, entry in entries.items()},
    }
    sealed = sealed_manifest(family, manifest)
    sha256 = hashlib.sha256(sealed).hexdigest()
    address = f"{manifests(family)}{sha256}"
    stored += len(sealed) if store.put_if_absent(address, sealed) else 0
    return Stored(address, sha256, len(entries), size, stored)


def read(store: Store, family: Family, address: str, sha256: str, *, kinds: Collection[str] | None = None) -> Snapshot:
    """The snapshot whose manifest lies at `address`, every hash verified; chunks are read side by side. With `kinds`, only tensors of these.

    Raises:
        CorruptError: the manifest or a chunk is missing or not what its hash says; the sentence names it.
    """
    manifest = manifest_at(store, family, address, sha256)
    wanted = {name: _Entry(**entry) for name, entry in manifest["tensors"].items() if kinds is None or name.partition("/")[0] in kinds}
    contents = {name: torch.empty(sum(length for _, _, length in entry.pieces), dtype=torch.uint8) for name, entry in wanted.items()}
    places: dict[int, list[tuple[memoryview, int]]] = {}
    for name, entry in wanted.items():
        at, whole = 0, contents[name].numpy().data
        for number, begin, length in entry.pieces:
            places.setdefault(number, []).append((whole[at : at + length], begin))
            at += length

    def fill(number: int) -> None:
        content = memoryview(chunks.get(store, family, Chunk(**manifest["chunks"][number])))
        for place, begin in places[number]:
            place[:] = content[begin : begin + len(place)]

    with ThreadPoolExecutor(READERS) as readers:
        for _ in readers.map(fill, sorted(places)):
            pass
    tensors = {name: contents[name].view(getattr(torch, entry.dtype)).reshape(entry.shape) for name, entry in wanted.items()}
    return Snapshot(tensors, manifest["notes"])


def manifests(family: Family) -> str:
    """What the keys of a family's manifests begin with; the rest is the SHA-256 of what is there."""
    return f"manifests/{family.id}/"


def sealed_manifest(family: Family, manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is stored."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return seal(family.manifest_key, zstandard.ZstdCompressor(level=chunks.LEVEL).compress(text), _MAGIC, head=_MAGIC)


def manifest_at(store: Store, family: Family, address: str, sha256: str) -> dict[str, Any]:
    """The manifest at `address`, verified.

    Raises:
        CorruptError: it is missing, not what its hash says, or of another family.
    """
    sealed = store.get(address)
    if sealed is None:
        raise CorruptError(f"Manifest {address} is not in the store: it was deleted, or the store is another one.")
    if hashlib.sha256(sealed).hexdigest() != sha256:
        raise CorruptError(f"Manifest {address} is damaged: its content has another hash than the journal gives.")
    if sealed[: len(_MAGIC)] != _MAGIC:
        raise CorruptError(f"Manifest {address} is none that this Esper reads: it does not begin as one of format {FORMAT}.")
    what = f"Manifest {address}, read as one of {family.name},"
    packed = unseal(family.manifest_key, memoryview(sealed)[len(_MAGIC) :], _MAGIC, what=what)
    manifest: dict[str, Any] = json.loads(zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_BYTES))
    if manifest["format"] != FORMAT:
        raise CorruptError(f"Manifest {address} has format {manifest['format']}; this Esper reads format {FORMAT}.")
    return manifest


def _groups(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names that share a chunk: small tensors of one kind together, larger ones alone."""
    groups: list[list[str]] = []
    small: dict[str, list[str]] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.numel() * tensor.element_size() >= SMALL_BYTES:
            groups.append([name])
        else:
            kind = name.partition("/")[0]
            if kind not in small:
                groups.append(small.setdefault(kind, []))
            small[kind].append(name)
    return groups


def _pieces(at: int, length: int) -> list[tuple[int, int, int]]:
    """Where the `length` bytes from `at` on lie when the whole is cut into pieces: (number of the piece, first byte in it, number of bytes)."""
    end, found = at + length, []
    while at < end:
        number, begin = divmod(at, chunks.PIECE_BYTES)
        taken = min(end - at, chunks.PIECE_BYTES - begin)
        found.append((number, begin, taken))
        at += taken
    return found


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the host, not copied where they lie side by side."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
