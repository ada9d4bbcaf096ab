"""Manifests, and where what they name lies. Without torch, so that a sweep need not wait for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import zstandard

from esper.bounded import DEFAULT, Limit, Limits, json_of, unpacked_zstd
from esper.checkpoint import chunks
from esper.checkpoint.chunks import Chunk, chunk_of
from esper.errors import CorruptError, printable
from esper.urza.store import Store
from esper.vault.family_keys import FamilyKey
from esper.vault.sealing import seal, unseal

FORMAT: Final = 2
_MAGIC: Final = b"ESM2"
_HAS: Final = {"format", "notes", "chunks", "tensors"}
OWN: Final = replace(
    DEFAULT, json=Limit(1 << 30, "its format"), snapshot=Limit(1 << 62, "its format")
)
"""Limits of what an installation has written itself."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where snapshots lie: `hot` takes what is new and has every manifest, `cold` the chunks that
    have been moved.

    `readers` read at once, within `limits`.
    """

    hot: Store
    cold: Store | None = None
    readers: int = 4
    limits: Limits = OWN

    @property
    def both(self) -> tuple[Store, ...]:
        """In the order in which they are asked: what is moved is in the cold one before it leaves
        the hot one.
        """
        return (self.hot,) if self.cold is None else (self.hot, self.cold)

    def exist(self, key: str) -> bool:
        """Whether one of them has it."""
        return any(store.exists(key) for store in self.both)


def condemned(store: Store, family: FamilyKey) -> set[str]:
    """Keys of chunks that a sweep is about to delete, or was when it was killed."""
    addresses: set[str] = set()
    for key in store.list(condemnations(family)):
        addresses |= set(json.loads(store.get(key) or b"[]"))
    return addresses


def condemnations(family: FamilyKey) -> str:
    """What the keys begin with under which sweeps name what they are about to delete."""
    return f"condemned/{family.id}/"


def manifests(family: FamilyKey) -> str:
    """What the keys of a family's manifests begin with; the rest is the SHA-256 of what
    is there.
    """
    return f"manifests/{family.id}/"


def sealed_manifest(family: FamilyKey, manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is stored."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return seal(
        family.manifest_key,
        zstandard.ZstdCompressor(level=chunks.LEVEL).compress(text),
        _MAGIC,
        head=_MAGIC,
    )


def manifest_at(
    store: Store, family: FamilyKey, address: str, sha256: str, limits: Limits = OWN
) -> dict[str, Any]:
    """The manifest at `address`, verified.

    Raises:
        CorruptError: it is missing, not what its hash says, of another family, or larger than the
            limits allow.
    """
    sealed = store.get(address)
    if sealed is None:
        raise CorruptError(
            f"Manifest {address} is not in the store: it was deleted, or the store is another one."
        )
    if hashlib.sha256(sealed).hexdigest() != sha256:
        raise CorruptError(
            f"Manifest {address} is damaged: its content has another hash than the journal gives."
        )
    if sealed[: len(_MAGIC)] != _MAGIC:
        raise CorruptError(
            f"Manifest {address} is none that this Esper reads: it does not begin as one "
            f"of format {FORMAT}."
        )
    what = f"Manifest {address}, read as one of {family.name},"
    packed = unseal(family.manifest_key, memoryview(sealed)[len(_MAGIC) :], _MAGIC, what=what)
    manifest = json_of(
        unpacked_zstd(packed, limits.json, f"Manifest {address}"), limits, f"Manifest {address}"
    )
    if (
        not isinstance(manifest, dict)
        or not manifest.keys() >= _HAS
        or not isinstance(manifest["chunks"], list)
    ):
        raise CorruptError(f"Manifest {address} is damaged: it is no manifest of a snapshot.")
    if manifest["format"] != FORMAT:
        raise CorruptError(
            f"Manifest {address} has format {printable(str(manifest['format'])[:40])}; "
            f"this Esper reads format {FORMAT}."
        )
    return manifest


def chunks_in(manifest: Mapping[str, Any]) -> list[Chunk]:
    """The chunks that a manifest names, in its order.

    Raises:
        CorruptError: one of them is none.
    """
    return [chunk_of(entry) for entry in manifest["chunks"]]
