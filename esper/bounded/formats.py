"""JSON, Avro containers, zstd frames and headers of safetensors files from outside, unpacked within
limits.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import zstandard

from esper.bounded.limits import Limit, Limits
from esper.errors import CorruptError, printable

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_OTHERS: Final = bytes(one for one in range(256) if one not in b"[]{}")
_NODE: Final = 8  # bytes of the limit on JSON that one value or key in it may take
_LONG: Final = 10  # bytes of the longest Avro long
_SYNC: Final = 16
_TRAILER: Final = 4  # bytes of a checksum that fastavro leaves behind a deflate block, most of it
_PIECE: Final = 256 << 10
_ENTRIES: Final = 64
_WINDOW: Final = 8 << 20  # bytes that a small frame may ask for, too


def json_of(content: bytes, limits: Limits, what: str) -> Any:
    """The value of a JSON text; `what` names it.

    Raises:
        CorruptError: it is no JSON, larger or deeper than the limits allow, or has numbers that
            JSON has not (NaN, Infinity).
    """
    limits.json.require(len(content), f"{what} has bytes,")
    brackets = _STRING.sub(b"", content).translate(None, _OTHERS)
    values = len(brackets) + content.count(b",")
    Limit(limits.json.most // _NODE, limits.json.setting).require(values, f"{what} has values,")
    for _ in range(limits.depth.most):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise limits.depth.refusal(f"{what} is cut off, or nested deeper: levels")
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is no JSON: {printable(str(error))}.") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def unpacked_zstd(packed: bytes | memoryview, limit: Limit, what: str) -> bytes:
    """The content of one zstd frame.

    The size that its head states is held against the limit before anything is unpacked.

    Raises:
        CorruptError: it is no frame, is cut off, or unpacks to more than the limit.
    """
    try:
        stated = zstandard.frame_content_size(packed)
        limit.require(stated, f"{what} unpacks to bytes,")
        return zstandard.ZstdDecompressor(max_window_size=max(limit.most, _WINDOW)).decompress(
            packed, max_output_size=limit.most, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptError(f"{what} is damaged: {error}.") from None


def tensors_header(content: bytes | memoryview, limits: Limits, what: str) -> dict[str, Any]:
    """The JSON header that a safetensors file begins with: tensors by name, and `__metadata__`.

    Raises:
        CorruptError: there is none, or it is larger than the limits allow.
    """
    size = int.from_bytes(content[:8], "little")
    limits.header.require(size, f"The header of {what} has bytes,")
    if len(content) < 8 + size:
        raise CorruptError(f"{what} is cut off: it ends in its header.")
    header = json_of(bytes(content[8 : 8 + size]), limits, f"The header of {what}")
    if not isinstance(header, dict):
        raise CorruptError(f"{what} is no safetensors file: its header is no JSON object.")
    return header


def avro_values(
    file: BinaryIO, schemas: Sequence[Any], limits: Limits, what: str, *, sha256: str = ""
) -> Iterator[bytes]:
    """The `bytes` values of an Avro container of records with that one field, one block unpacked at
    a time.

    Source: Apache Avro specification 1.12, "Object container files". The container has to have been
    written with one of `schemas` (JSON, parsed): the writer's own schema decides how much a datum
    costs, so that of a stranger is not interpreted. With `sha256`, the bytes of the file are held
    against it at the end: what was read until then is of a file that was changed.

    Raises:
        CorruptError: it is no such container, is cut off, has another hash, or unpacks to more than
            the limits allow.
    """
    source = _Source(file, what)
    if source.take(4) != b"Obj\x01":
        raise CorruptError(
            f"{what} is no whole journal file: it does not begin as an Avro container."
        )
    meta = _metadata(source, limits)
    if json_of(meta.get("avro.schema", b"null"), limits, f"The schema of {what}") not in schemas:
        raise CorruptError(f"{what} is no whole journal file: it was written with another schema.")
    codec = meta.get("avro.codec", b"null")
    if codec not in (b"null", b"deflate"):
        raise CorruptError(
            f"{what} is no whole journal file: its codec is {printable(repr(codec[:40]))}, "
            "not null or deflate."
        )
    sync, total = source.take(_SYNC), 0
    while (count := source.long(end=True)) is not None:
        size = source.long() or 0
        if count < 0 or size < 0:
            raise CorruptError(
                f"{what} is no whole journal file: a block has {count} messages in {size} bytes."
            )
        limits.block.require(size, f"A block of {what} has bytes,")
        block = source.take(size)
        content = _inflated(block, limits, what) if codec == b"deflate" else block
        if source.take(_SYNC) != sync:
            raise CorruptError(
                f"{what} is no whole journal file: a block does not end where it should."
            )
        total += len(content)
        limits.journal.require(total, f"{what} unpacks to bytes,")
        yield from _values(content, count, what)
    if sha256 and source.sha256() != sha256:
        raise CorruptError(f"{what} was changed while it was read.")


def _metadata(source: _Source, limits: Limits) -> dict[str, bytes]:
    """The map of the container's head."""
    found: dict[str, bytes] = {}
    while count := source.long() or 0:
        if count < 0:
            count = -count
            source.long()  # the block's size in bytes, for readers that skip it
        for _ in range(count):
            key, value = (source.take(_length(source, limits)) for _ in range(2))
            found[key.decode(errors="replace")] = value
            if len(found) > _ENTRIES:
                raise CorruptError(
                    f"{source.what} is no whole journal file: its head has more than "
                    f"{_ENTRIES} entries."
                )
    return found


def _length(source: _Source, limits: Limits) -> int:
    size = source.long() or 0
    limits.header.require(max(size, -size), f"The head of {source.what} has bytes,")
    return max(size, 0)


def _inflated(block: bytes, limits: Limits, what: str) -> bytes:
    """A raw deflate block (RFC 1951), unpacked no further than the limit."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(block, limits.block.most + 1)
    except zlib.error as error:
        raise CorruptError(f"{what} is no whole journal file: {error}.") from None
    limits.block.require(len(content), f"A block of {what} unpacks to bytes,")
    if not unpacking.eof or len(unpacking.unused_data) > _TRAILER:
        raise CorruptError(
            f"{what} is no whole journal file: a block is cut off, or has bytes behind it."
        )
    return content


def _values(content: bytes, count: int, what: str) -> Iterator[bytes]:
    """`count` values of Avro bytes, which are all of `content`."""
    at = 0
    for _ in range(count):
        size, at = _long(content, at)
        if size < 0 or at + size > len(content):
            raise CorruptError(
                f"{what} is no whole journal file: a message is longer than its block."
            )
        yield content[at : at + size]
        at += size
    if at != len(content):
        raise CorruptError(
            f"{what} is no whole journal file: a block has bytes behind its messages."
        )


def _long(content: bytes, at: int) -> tuple[int, int]:
    """The Avro long at a place, and the place behind it; -1 for none."""
    value = 0
    for number, byte in enumerate(content[at : at + _LONG]):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + number + 1
    return -1, at


class _Source:
    """A file that is read piece by piece, and hashed on the way."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self.what = what
        self._file = file
        self._digest = hashlib.sha256()

    def take(self, size: int) -> bytes:
        """The next `size` bytes; memory grows with what is there, not with what is asked for."""
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._file.read(min(_PIECE, size - len(pieces)))
            if not piece:
                raise CorruptError(f"{self.what} is no whole journal file: it is cut off.")
            self._digest.update(piece)
            pieces += piece
        return bytes(pieces)

    def long(self, *, end: bool = False) -> int | None:
        """The next Avro long; None at the end of the file, where that may be."""
        value = 0
        for number in range(_LONG):
            byte = self._file.read(1)
            if not byte:
                if end and not number:
                    return None
                raise CorruptError(f"{self.what} is no whole journal file: it is cut off.")
            self._digest.update(byte)
            value |= (byte[0] & 0x7F) << (7 * number)
            if byte[0] < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise CorruptError(f"{self.what} is no whole journal file: a number in it has no end.")

    def sha256(self) -> str:
        """The hash of all that was read."""
        return self._digest.hexdigest()
