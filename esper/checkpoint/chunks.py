"""Chunks: pieces of tensors, compressed with zstd, addressed by the SHA-256 of what is in them. An unchanged tensor costs nothing again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import zstandard

from esper.errors import CorruptError
from esper.urza.store import Store

PIECE_BYTES = 8 << 20
"""Larger tensors are cut into pieces of this size, so that they are compressed and restored side by side."""
LEVEL = 1  # of zstd: 500 MB/s and more; float weights hardly compress any further at higher ones


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as the manifest names it: address (SHA-256 of the plain bytes, hexadecimal) and size in plain bytes."""

    address: str
    size: int


def key(address: str) -> str:
    """Where a chunk lies in the store."""
    return f"chunks/{address[:2]}/{address}"


def put(store: Store, content: bytes | memoryview) -> tuple[Chunk, int]:
    """Store a piece unless it is there; durable before it returns. Gives the chunk, and the bytes that were new to the store."""
    address = hashlib.sha256(content).hexdigest()
    chunk = Chunk(address, len(content))
    if store.exists(key(address)):
        return chunk, 0
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(content)
    return chunk, len(packed) if store.put_if_absent(key(address), packed) else 0


def get(store: Store, chunk: Chunk) -> bytes:
    """The plain bytes of a chunk.

    Raises:
        CorruptError: it is missing, cut off or changed; the sentence names it.
    """
    packed = store.get(key(chunk.address))
    if packed is None:
        raise CorruptError(f"Chunk {chunk.address} is not in the store: it was deleted, or the store is another one.")
    try:
        content = zstandard.ZstdDecompressor().decompress(packed, max_output_size=chunk.size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:  # a damaged header may ask for any amount of memory
        raise CorruptError(f"Chunk {chunk.address} is damaged: {error}.") from error
    if len(content) != chunk.size or hashlib.sha256(content).hexdigest() != chunk.address:
        raise CorruptError(f"Chunk {chunk.address} is damaged: its content has another hash.")
    return content
