"""The memory tier of the kernel cache: what was used least recently goes first, within limits in
bytes and in entries. Pure, without torch.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MIB: Final = 1 << 20

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much a cache holds: kernels, bytes of all of them, and bytes of those of one layer."""

    entries: int = 128
    bytes: int = 512 * MIB
    layer_bytes: int = 128 * MIB


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """Counts since the cache was made, and what it holds now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    layer: str


@dataclass(slots=True)
class _Count:
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


class KernelCache(Generic[V]):
    """Values by kernel id, each with its size in bytes and the layer that used it last.

    An entry counts towards the limit of that one layer; before a layer has asked for it ("", a
    kernel that was prefetched) towards the common limits alone. What is larger than a limit is not
    kept. For one thread; figures may be read from others.
    """

    def __init__(self, limits: CacheLimits = CacheLimits()) -> None:
        self.limits = limits
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()  # the least recently used first
        self._all = _Count()
        self._layers: dict[str, _Count] = {}

    def get(self, kernel_id: str, layer: str = "") -> V | None:
        """The value, now the most recently used and of `layer`, or None.

        Constant time unless it moves from one layer to another.
        """
        entry = self._entries.get(kernel_id)
        count = self._of(layer)
        if entry is None:
            self._all.misses += 1
            count.misses += 1
            return None
        self._all.hits += 1
        count.hits += 1
        self._entries.move_to_end(kernel_id)
        if layer and entry.layer != layer:
            self._charge(entry, -1)
            entry.layer = layer
            self._charge(entry, 1)
            self._evict()
        return entry.value

    def put(self, kernel_id: str, value: V, size: int, layer: str = "") -> tuple[str, ...]:
        """Keep a value of `size` bytes as the most recently used.

        Gives the kernels that had to leave for it, in the order in which they left.
        """
        if (old := self._entries.pop(kernel_id, None)) is not None:
            self._charge(old, -1)
        # It would put out everything else and not fit even then.
        if size > min(self.limits.bytes, self.limits.layer_bytes):
            return ()
        entry = self._entries[kernel_id] = _Entry(value, size, layer)
        self._charge(entry, 1)
        return self._evict()

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def figures(self, layer: str | None = None) -> CacheFigures:
        """Figures of the whole cache, or of one layer: its own look-ups, and the entries that count
        towards its limit.
        """
        count = self._all if layer is None else self._layers.get(layer, _Count())
        return CacheFigures(count.hits, count.misses, count.evictions, count.entries, count.bytes)

    def _of(self, layer: str) -> _Count:
        count = self._layers.get(layer)
        if count is None:
            count = self._layers[layer] = _Count()
        return count

    def _charge(self, entry: _Entry[V], sign: int) -> None:
        for count in (self._all, self._of(entry.layer)):
            count.entries += sign
            count.bytes += sign * entry.size

    def _evict(self) -> tuple[str, ...]:
        """Take out the least recently used until every limit holds: first of the layer that has
        just grown, then of all.
        """
        left: list[str] = []
        # both callers have just made the grown entry the newest
        layer = next(reversed(self._entries.values())).layer
        if layer and self._of(layer).bytes > self.limits.layer_bytes:
            for kernel_id in [
                cached for cached, entry in self._entries.items() if entry.layer == layer
            ]:
                if self._of(layer).bytes <= self.limits.layer_bytes:
                    break
                left.append(self._leave(kernel_id))
        while self._all.bytes > self.limits.bytes or self._all.entries > self.limits.entries:
            left.append(self._leave(next(iter(self._entries))))
        return tuple(left)

    def _leave(self, kernel_id: str) -> str:
        entry = self._entries.pop(kernel_id)
        self._charge(entry, -1)
        self._all.evictions += 1
        self._of(entry.layer).evictions += 1
        return kernel_id
