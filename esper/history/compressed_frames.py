"""ClickHouse's compressed frames, which a client asks for with `compress=1`: checksum, method,
sizes, LZ4 block.

Sources: ClickHouse's `CompressedReadBufferBase`; CityHash 1.0.2 by Pike and Alakuijala, of which
ClickHouse keeps that version's 128-bit hash.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import cramjam

_LZ4: Final = 0x82
_CHUNK: Final = 256 << 10
_HEADER: Final = struct.Struct("<BII")  # method, size with this header, size when decompressed
_CHECKSUM: Final = struct.Struct("<QQ")

_M: Final = (1 << 64) - 1
_K0: Final = 0xC3A5C85C97CB3127
_K1: Final = 0xB492B66FBE98F273
_K2: Final = 0x9AE16A3B2F90404F
_K3: Final = 0xC949D7C7509E6557
_MUL: Final = 0x9DDFEA08EB382D69

Pair = tuple[int, int]


def framed(content: bytes) -> bytes:
    """`content` as compressed frames."""
    out = []
    for first in range(0, len(content), _CHUNK):
        chunk = content[first : first + _CHUNK]
        packed = bytes(cramjam.lz4.compress_block(chunk, store_size=False))
        body = _HEADER.pack(_LZ4, _HEADER.size + len(packed), len(chunk)) + packed
        out += [_CHECKSUM.pack(*city128(body)), body]
    return b"".join(out)


def city128(content: bytes) -> Pair:
    """CityHash128 of version 1.0.2: the low and the high half."""
    size = len(content)
    if size >= 16:
        low, high = _CHECKSUM.unpack_from(content)
        return _seeded(content[16:], (low ^ _K3, high))
    if size >= 8:
        return _seeded(b"", (_word(content, 0) ^ (size * _K0 & _M), _word(content, size - 8) ^ _K1))
    return _seeded(content, (_K0, _K1))


def _word(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "little")


def _rotated(value: int, shift: int) -> int:
    value &= _M
    return (value >> shift | value << (64 - shift)) & _M


def _mixed(value: int) -> int:
    # C wraps at 64 bits, Python does not
    value &= _M
    return value ^ value >> 47


def _hash16(u: int, v: int) -> int:
    a = _mixed(((u ^ v) & _M) * _MUL)
    return _mixed(((v & _M) ^ a) * _MUL) * _MUL & _M


def _weak(words: Sequence[int], a: int, b: int) -> Pair:
    """The hash of four words with two seeds."""
    w, x, y, z = words
    a += w
    c = a
    b = _rotated(b + a + z, 21)
    a += x + y
    b += _rotated(a, 44)
    return (a + z) & _M, (b + c) & _M


def _seeded(content: bytes, seed: Pair) -> Pair:
    size = len(content)
    if size < 128:
        return _murmur(content, seed)
    words = struct.unpack(f"<{size // 8}Q", content[: size // 8 * 8])
    x, y = seed
    z = size * _K1 & _M
    v0 = _rotated(y ^ _K1, 49) * _K1 + words[0] & _M
    v = (v0, _rotated(v0, 42) * _K1 + words[1] & _M)
    w = (_rotated(y + z, 35) * _K1 + x & _M, _rotated(x + words[11], 53) * _K1 & _M)
    at = 0
    for _ in range(size // 128 * 2):
        x = _rotated(x + y + v[0] + words[at + 2], 37) * _K1 & _M
        y = _rotated(y + v[1] + words[at + 6], 42) * _K1 & _M
        x ^= w[1]
        y ^= v[0]
        z = _rotated(z ^ w[0], 33)
        v = _weak(words[at : at + 4], v[1] * _K1, x + w[0])
        w = _weak(words[at + 4 : at + 8], z + w[1], y)
        z, x = x, z
        at += 8
    y = y + _rotated(w[0], 37) * _K0 + z & _M
    x = x + _rotated(v[0] + z, 49) * _K0 & _M
    # counted from the end: the last words overlap those that the rounds have read
    for end in range(32, size % 128 + 32, 32):
        tail = struct.unpack_from("<4Q", content, size - end)
        y = _rotated(y - x, 42) * _K0 + v[1] & _M
        w = (w[0] + tail[2] & _M, w[1])
        x = _rotated(x, 49) * _K0 + w[0] & _M
        w = (w[0] + v[0] & _M, w[1])
        v = _weak(tail, v[0], v[1])
    x, y = _hash16(x, v[0]), _hash16(y, w[0])
    return _hash16(x + v[1], w[1]) + y & _M, _hash16(x + w[1], y + v[1])


def _murmur(content: bytes, seed: Pair) -> Pair:
    size = len(content)
    a, b = seed
    if size <= 16:
        a = _mixed(a * _K1) * _K1 & _M
        c = b * _K1 + _short(content) & _M
        d = _mixed(a + (_word(content, 0) if size >= 8 else c))
    else:
        c = _hash16(_word(content, size - 8) + _K1, a)
        d = _hash16(b + size, c + _word(content, size - 16))
        a = a + d & _M
        for at in range(0, size - 16, 16):
            a = (a ^ _mixed(_word(content, at) * _K1) * _K1 & _M) * _K1 & _M
            b ^= a
            c = (c ^ _mixed(_word(content, at + 8) * _K1) * _K1 & _M) * _K1 & _M
            d ^= c
    a, b = _hash16(a, c), _hash16(d, b)
    return a ^ b, _hash16(b, a)


def _short(content: bytes) -> int:
    """The 64-bit hash of up to 16 bytes."""
    size = len(content)
    if size > 8:
        a, b = _word(content, 0), _word(content, size - 8)
        return _hash16(a, _rotated(b + size, size)) ^ b
    if size >= 4:
        a, b = int.from_bytes(content[:4], "little"), int.from_bytes(content[-4:], "little")
        return _hash16(size + (a << 3), b)
    if size:
        y = content[0] + (content[size >> 1] << 8)
        z = size + (content[-1] << 2)
        return _mixed(y * _K2 ^ z * _K3) * _K2 & _M
    return _K2
