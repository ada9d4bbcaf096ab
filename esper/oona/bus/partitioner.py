"""Java's default partitioner, so that every client puts a key into the same partition.

Source: murmur2 of org.apache.kafka.common.utils.Utils.
"""

from __future__ import annotations

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C


def murmur2(key: bytes) -> int:
    """The 32-bit hash of `key`, unsigned."""
    length = len(key)
    h = (_SEED ^ length) & _MASK
    aligned = length & ~3
    for at in range(0, aligned, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if tail := key[aligned:]:
        # Java's switch falls through from the last byte to the first: together a little-endian
        # number
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions`."""
    # Java's toPositive; its abs() has no positive value for the smallest integer
    return (murmur2(key) & 0x7FFFFFFF) % partitions
