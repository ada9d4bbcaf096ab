"""A snapshot: named tensors and notes.

Its manifest is canonical JSON that names every chunk, sealed; no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from esper.bounded import Limits
from esper.bounded.names import MALFORMED
from esper.checkpoint import chunks
from esper.checkpoint.chunks import Chunk
from esper.checkpoint.manifest import (
    FORMAT,
    Stores,
    chunks_in,
    condemned,
    manifest_at,
    manifests,
    sealed_manifest,
)
from esper.errors import CorruptError, UnavailableError, printable
from esper.vault.family_keys import FamilyKey

SMALL_BYTES: Final = (
    16 << 10
)  # tensors below this share a chunk with their neighbours of the same kind
_ATTEMPTS: Final = 5
_TYPES: Final = {
    str(kind).removeprefix("torch."): kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype)
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds.

    The first word of a tensor's name, before the slash, is its kind; `notes` is JSON.
    """

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        # as bytes: torch would share memory with a process that may end before it is read
        flat = {
            name: (one.dtype, one.shape, bytes(_bytes(one.cpu())))
            for name, one in self.tensors.items()
        }
        return _unpickled, (flat, dict(self.notes))


def _unpickled(flat: Mapping[str, Any], notes: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        {
            name: torch.frombuffer(bytearray(content), dtype=kind).view(shape)
            if content
            else torch.empty(shape, dtype=kind)
            for name, (kind, shape, content) in flat.items()
        },
        notes,
    )


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


def write(stores: Stores, family: FamilyKey, snapshot: Snapshot) -> Stored:
    """Store a snapshot: every chunk, then the manifest; durable before it returns.

    A sweep may be about to delete a chunk that is there already. So that none is missing in the
    end, no lock is needed: the sweep names what it will delete, then looks for new manifests, then
    deletes; this puts its manifest, then looks what is named and what is there. Whichever comes
    second sees the other: the sweep spares what the manifest names, or this stores a copy under
    another key and a manifest with that.

    Raises:
        StorageFullError: no room; what was stored already is garbage that nothing names.
        UnavailableError: the store cannot be reached.
    """
    entries, contents = _laid_out(snapshot.tensors)
    doomed = condemned(stores.hot, family)
    placed = [chunks.put(stores.hot, family, content, doomed) for content in contents]
    new_bytes = sum(new for _, new in placed)
    listed, before = [chunk for chunk, _ in placed], ""
    for _ in range(_ATTEMPTS):
        manifest = {
            "format": FORMAT,
            "notes": snapshot.notes,
            "chunks": [asdict(chunk) for chunk in listed],
            "tensors": {name: asdict(entry) for name, entry in entries.items()},
        }
        sealed = sealed_manifest(family, manifest)
        sha256 = hashlib.sha256(sealed).hexdigest()
        address = f"{manifests(family)}{sha256}"
        # Before the look at what is condemned: whichever of writer and sweep comes second sees the
        # other.
        stores.hot.put_if_absent(address, sealed)
        if before:
            stores.hot.delete(before)  # not sooner: it kept the rest
        doomed = condemned(stores.hot, family)
        unsafe = [
            number
            for number, chunk in enumerate(listed)
            if chunk.key(family) in doomed or not stores.exist(chunk.key(family))
        ]
        if not unsafe:
            return Stored(
                address, sha256, len(entries), sum(map(len, contents)), new_bytes + len(sealed)
            )
        for number in unsafe:
            listed[number], new = chunks.put(
                stores.hot, family, contents[number], doomed | {listed[number].key(family)}
            )
            new_bytes += new
        before = address
    raise UnavailableError(
        f"Chunks of the snapshot were deleted as often as they were stored, {_ATTEMPTS} "
        "times: see who sweeps the store."
    )


def read(
    stores: Stores,
    family: FamilyKey,
    address: str,
    sha256: str,
    *,
    kinds: Collection[str] | None = None,
) -> Snapshot:
    """The snapshot whose manifest lies at `address`, every hash verified.

    Chunks are read side by side. With `kinds`, only tensors of these.

    Raises:
        CorruptError: the manifest or a chunk is missing or not what its hash says, or the manifest
            contradicts itself; the sentence names it.
    """
    manifest = manifest_at(stores.hot, family, address, sha256, stores.limits)
    listed = chunks_in(manifest)
    try:
        entries = {name: _entry(entry, listed) for name, entry in manifest["tensors"].items()}
    except MALFORMED as error:
        raise CorruptError(f"Manifest {address} is damaged: {printable(str(error))}.") from error
    _require_size(entries.values(), listed, stores.limits, address)
    wanted = {
        name: entry for name, entry in entries.items() if kinds is None or kind_of(name) in kinds
    }
    contents = {
        name: torch.empty(sum(length for _, _, length in entry.pieces), dtype=torch.uint8)
        for name, entry in wanted.items()
    }
    places: dict[int, list[tuple[memoryview, int]]] = {}
    for name, entry in wanted.items():
        at, whole = 0, contents[name].numpy().data
        # Pieces are written into their place as they arrive, so no tensor is in memory twice.
        for number, begin, length in entry.pieces:
            places.setdefault(number, []).append((whole[at : at + length], begin))
            at += length

    def fill(number: int) -> None:
        content = memoryview(chunks.get(stores.both, family, listed[number], stores.limits.object))
        for place, begin in places[number]:
            place[:] = content[begin : begin + len(place)]

    # Threads: reading, unpacking and hashing release Python's lock.
    with ThreadPoolExecutor(stores.readers) as readers:
        for _ in readers.map(fill, sorted(places)):
            pass
    tensors = {
        name: contents[name].view(_TYPES[entry.dtype]).reshape(entry.shape)
        for name, entry in wanted.items()
    }
    return Snapshot(tensors, manifest["notes"])


def _entry(raw: Mapping[str, Any], listed: Sequence[Chunk]) -> _Entry:
    """The entry of a tensor, if it fits the chunks that its manifest lists.

    Raises one of MALFORMED if not.
    """
    entry = _Entry(**raw)
    kind = _TYPES[entry.dtype]
    numbers = [*entry.shape, *(number for piece in entry.pieces for number in piece)]
    # `type`, not isinstance: JSON's true is an int to Python.
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a shape or a piece of a tensor has numbers that are none")
    if any(begin + length > listed[number].size for number, begin, length in entry.pieces):
        raise ValueError("a piece of a tensor is not in its chunk")
    if math.prod(entry.shape) * kind.itemsize != sum(length for _, _, length in entry.pieces):
        raise ValueError("a tensor has another size than its pieces")
    return entry


def _require_size(
    entries: Iterable[_Entry], listed: Sequence[Chunk], limits: Limits, address: str
) -> None:
    """Each byte of a chunk is one tensor's, so that a small manifest cannot ask for much memory.

    Raises:
        CorruptError: tensors have more bytes than their chunks, or than the limits allow.
    """
    size = sum(length for entry in entries for _, _, length in entry.pieces)
    limits.snapshot.require(size, f"Manifest {address} is of bytes,")
    if size > sum(chunk.size for chunk in listed):
        raise CorruptError(
            f"Manifest {address} is damaged: its tensors have more bytes than its chunks."
        )


def kind_of(name: str) -> str:
    """The kind of a tensor: the first word of its name."""
    return name.partition("/")[0]


def _laid_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, _Entry], list[memoryview]]:
    """The entry of each tensor, and the contents of the chunks that they point at."""
    entries = {
        name: _Entry(str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
        for name, tensor in tensors.items()
    }
    contents: list[memoryview] = []
    for names in _groups(tensors):
        parts = [_bytes(tensors[name]) for name in names]
        whole = memoryview(b"".join(parts)) if len(parts) > 1 else parts[0]
        first, at = len(contents), 0
        contents += [
            whole[begin : begin + chunks.PIECE_BYTES]
            for begin in range(0, max(len(whole), 1), chunks.PIECE_BYTES)
        ]
        for name, part in zip(names, parts, strict=True):
            entries[name].pieces = [
                (first + number, begin, size) for number, begin, size in _pieces(at, len(part))
            ]
            at += len(part)
    return entries, contents


def _groups(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names that share a chunk: small tensors of one kind together, larger ones alone."""
    groups: list[list[str]] = []
    small: dict[str, list[str]] = {}
    # In one order always: the same tensors make the same chunks, which are stored once.
    for name, tensor in sorted(tensors.items()):
        if tensor.numel() * tensor.element_size() >= SMALL_BYTES:
            groups.append([name])
        else:
            kind = kind_of(name)
            if kind not in small:
                groups.append(small.setdefault(kind, []))
            small[kind].append(name)
    return groups


def _pieces(at: int, length: int) -> list[tuple[int, int, int]]:
    """Where the `length` bytes from `at` on lie when the whole is cut into pieces: (number of the
    piece, first byte in it, number of bytes).
    """
    end, pieces = at + length, []
    while at < end:
        number, begin = divmod(at, chunks.PIECE_BYTES)
        taken = min(end - at, chunks.PIECE_BYTES - begin)
        pieces.append((number, begin, taken))
        at += taken
    return pieces


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the host, not copied where they lie side by side."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
