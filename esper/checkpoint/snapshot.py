"""A snapshot: named tensors and notes. Its manifest is canonical JSON that names every chunk; no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint import chunks
from esper.checkpoint.chunks import Chunk
from esper.errors import CorruptError
from esper.urza.store import Store

FORMAT = 1
SMALL_BYTES = 16 << 10  # tensors below this share a chunk with their neighbours of the same kind
READERS = 4


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


def write(store: Store, snapshot: Snapshot) -> Stored:
    """Store a snapshot: every chunk, then the manifest; durable before it returns.

    Raises:
        StorageFullError: no room; what was stored already is garbage that nothing names.
        UnavailableError: the store cannot be reached.
    """
    entries = {name: _Entry(str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in snapshot.tensors.items()}
    listed: list[Chunk] = []
    stored = size = 0
    for names in _groups(snapshot.tensors):
        content = b"".join(_bytes(snapshot.tensors[name]) for name in names) if len(names) > 1 else _bytes(snapshot.tensors[names[0]])
        size += len(content)
        first = len(listed)
        for begin in range(0, max(len(content), 1), chunks.PIECE_BYTES):
            chunk, new = chunks.put(store, memoryview(content)[begin : begin + chunks.PIECE_BYTES])
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
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(text).hexdigest()
    address = f"manifests/{sha256}.json"
    stored += len(text) if store.put_if_absent(address, text) else 0
    return Stored(address, sha256, len(entries), size, stored)


def read(store: Store, address: str, sha256: str) -> Snapshot:
    """The snapshot whose manifest lies at `address`, every hash verified; chunks are read side by side.

    Raises:
        CorruptError: the manifest or a chunk is missing or not what its hash says; the sentence names it.
    """
    text = store.get(address)
    if text is None:
        raise CorruptError(f"Manifest {address} is not in the store: it was deleted, or the store is another one.")
    if hashlib.sha256(text).hexdigest() != sha256:
        raise CorruptError(f"Manifest {address} is damaged: its content has another hash than the journal gives.")
    manifest = json.loads(text)
    if manifest["format"] != FORMAT:
        raise CorruptError(f"Manifest {address} has format {manifest['format']}; this Esper reads format {FORMAT}.")
    with ThreadPoolExecutor(READERS) as readers:
        contents = list(readers.map(lambda one: chunks.get(store, Chunk(**one)), manifest["chunks"]))
    tensors = {}
    for name, entry in manifest["tensors"].items():
        content = bytearray(b"".join(contents[number][begin : begin + length] for number, begin, length in entry["pieces"]))
        dtype = getattr(torch, entry["dtype"])
        plain = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        tensors[name] = plain.view(dtype).reshape(entry["shape"])
    return Snapshot(tensors, manifest["notes"])


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


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
