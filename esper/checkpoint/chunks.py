"""Chunks: pieces of tensors, compressed with zstd, each sealed with AES-256-GCM under a data key of
its own, which the family's key wraps.

An object is `ESC1`, codec (1 byte), length of the plain bytes (8 bytes, big-endian), the sealed
data key (60 bytes), the sealed content. Both seals are bound to address, codec and length. The
address is the HMAC-SHA256 of the plain bytes, so an unchanged tensor costs nothing again.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import zstandard

from esper.bounded import DEFAULT, Limit, unpacked_zstd
from esper.errors import CorruptError
from esper.urza.store import Store
from esper.vault.family_keys import FamilyKey
from esper.vault.sealing import KEY_BYTES, OVERHEAD_BYTES, seal, unseal

PIECE_BYTES = 8 << 20
"""Larger tensors are cut into pieces of this size, so that they are compressed and restored side by
side.
"""
LEVEL = 1  # of zstd: 500 MB/s and more; float weights hardly compress any further at higher ones

_MAGIC: Final = b"ESC1"
_HEAD: Final = struct.Struct(">4sBQ")
_WRAPPED_BYTES: Final = KEY_BYTES + OVERHEAD_BYTES
_PLAIN, _ZSTD = 0, 1
_ADDRESS: Final = re.compile(r"[0-9a-f]{64}")
_COPY: Final = re.compile(r"[0-9a-f]{0,32}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as the manifest names it: address (HMAC-SHA256 of the plain bytes, hexadecimal) and
    size in plain bytes.

    `copy` tells objects with the same content apart: there is a second one where the first was
    about to be deleted when it was needed again.
    """

    address: str
    size: int
    copy: str = ""

    def key(self, family: FamilyKey) -> str:
        """Where it lies in the store."""
        copy = f"-{self.copy}" if self.copy else ""
        return f"{chunks(family)}{self.address[:2]}/{self.address}{copy}"


def chunk_of(raw: Any) -> Chunk:
    """The chunk that an entry of a manifest names.

    Raises:
        CorruptError: it names none: whoever has the family's key may write what he likes into a
            manifest.
    """
    try:
        chunk = Chunk(**raw)
        if (
            _ADDRESS.fullmatch(chunk.address)
            and _COPY.fullmatch(chunk.copy)
            and isinstance(chunk.size, int)
            and chunk.size >= 0
        ):
            return chunk
    except TypeError:
        pass
    raise CorruptError("A manifest names a chunk that is none.")


def chunks(family: FamilyKey) -> str:
    """What the keys of a family's chunks begin with."""
    return f"chunks/{family.id}/"


def put(
    store: Store, family: FamilyKey, content: bytes | memoryview, doomed: Container[str]
) -> tuple[Chunk, int]:
    """Store a piece unless it is there, or a copy of it where its key is `doomed`.

    Durable before it returns.

    Returns:
        The chunk, and the bytes that were new to the store.
    """
    chunk = Chunk(family.address(content), len(content))
    # A sweep has named the first one and may delete it at any moment: it cannot be relied on.
    if chunk.key(family) in doomed:
        chunk = replace(chunk, copy=secrets.token_hex(8))
    if store.exists(chunk.key(family)):
        return chunk, 0
    sealed = _sealed(family, chunk, content)
    return chunk, len(sealed) if store.put_if_absent(chunk.key(family), sealed) else 0


def get(
    stores: Sequence[Store], family: FamilyKey, chunk: Chunk, limit: Limit = DEFAULT.object
) -> bytes | memoryview:
    """The plain bytes of a chunk out of the first store that has it.

    Raises:
        CorruptError: it is missing, cut off, changed, larger than the limit, or another chunk's;
            the sentence names it.
    """
    what = f"Chunk {chunk.address}"
    # A manifest may be a stranger's: its sizes are not believed beyond the limit.
    limit.require(chunk.size, f"{what} has bytes,")
    sealed = next(
        (stored for store in stores if (stored := store.get(chunk.key(family))) is not None), None
    )
    if sealed is None:
        raise CorruptError(
            f"{what} is not in the store: it was deleted, or the store is another one."
        )
    if len(sealed) < _HEAD.size + _WRAPPED_BYTES:
        raise CorruptError(f"{what} is damaged: it is cut off.")
    magic, codec, length = _HEAD.unpack_from(sealed)
    if magic != _MAGIC or codec not in (_PLAIN, _ZSTD) or length != chunk.size:
        raise CorruptError(f"{what} is damaged: its head is another one than was written.")
    # Bound to its address, so that a chunk put in another's place does not open.
    rest, bound = memoryview(sealed)[_HEAD.size :], _bound(chunk, codec)
    data_key = bytes(unseal(family.wrapping_key, rest[:_WRAPPED_BYTES], bound, what=what))
    packed = unseal(data_key, rest[_WRAPPED_BYTES:], bound, what=what)
    content: bytes | memoryview = packed
    if codec == _ZSTD:
        # No further than the size that its manifest gives: a few bytes can unpack to gigabytes.
        content = unpacked_zstd(packed, Limit(chunk.size, "its manifest"), what)
    if len(content) != chunk.size or family.address(content) != chunk.address:
        raise CorruptError(f"{what} is damaged: its content has another hash.")
    return content


def _sealed(family: FamilyKey, chunk: Chunk, content: bytes | memoryview) -> bytes:
    packed: bytes | memoryview = zstandard.ZstdCompressor(level=LEVEL).compress(content)
    codec = _ZSTD
    # Weights that do not compress stay as they are: nothing to unpack when they are read.
    if len(packed) >= len(content):
        packed, codec = content, _PLAIN
    bound, data_key = _bound(chunk, codec), os.urandom(KEY_BYTES)
    wrapped = seal(family.wrapping_key, data_key, bound, head=_HEAD.pack(_MAGIC, codec, chunk.size))
    return seal(data_key, packed, bound, head=wrapped)


def _bound(chunk: Chunk, codec: int) -> bytes:
    """What both seals are bound to: address, codec, length."""
    return bytes.fromhex(chunk.address) + struct.pack(">BQ", codec, chunk.size)
