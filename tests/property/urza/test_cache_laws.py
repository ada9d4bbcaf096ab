"""Laws of the memory tier over made-up histories, against a model that keeps plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from esper.urza.memory_tier import CacheLimits, KernelCache

KERNELS = st.sampled_from("abcdefgh")
LAYERS = st.sampled_from(["", "one", "two"])
LIMITS = st.builds(
    CacheLimits, entries=st.integers(1, 5), bytes=st.integers(1, 60), layer_bytes=st.integers(1, 60)
)
GET = st.tuples(st.just("get"), KERNELS, LAYERS, st.just(0))
PUT = st.tuples(st.just("put"), KERNELS, LAYERS, st.integers(0, 40))
HISTORY = st.lists(st.one_of(GET, PUT), max_size=60)


@dataclass
class Model:
    """The cache as its description says: rows of [kernel, layer, size], the least recently used
    first.
    """

    limits: CacheLimits
    rows: list[list[str | int]] = field(default_factory=list)

    def use(self, kernel: str, layer: str, size: int | None) -> list[str]:
        """Put (or, without a size, get) a kernel that is or becomes the most recently used.

        Gives those that leave.
        """
        held = [row for row in self.rows if row[0] == kernel]
        if size is None and not held:
            return []
        self.rows = [row for row in self.rows if row[0] != kernel]
        if size is None:
            row = [kernel, layer or held[0][1], held[0][2]]
        elif size > min(self.limits.bytes, self.limits.layer_bytes):
            return []
        else:
            row = [kernel, layer, size]
        self.rows.append(row)
        left = []
        while (
            row[1]
            and sum(int(one[2]) for one in self.rows if one[1] == row[1]) > self.limits.layer_bytes
        ):
            left.append(next(one for one in self.rows if one[1] == row[1]))
            self.rows.remove(left[-1])
        while (
            len(self.rows) > self.limits.entries
            or sum(int(one[2]) for one in self.rows) > self.limits.bytes
        ):
            left.append(self.rows.pop(0))
        return [str(one[0]) for one in left]


@given(LIMITS, HISTORY)
def test_it_is_what_the_model_is(
    limits: CacheLimits, history: list[tuple[str, str, str, int]]
) -> None:
    """After every step the cache holds what the model holds, with the last value put, and the same
    kernels leave in the same order.
    """
    cache: KernelCache[int] = KernelCache(limits)
    model, values = Model(limits), dict.fromkeys("abcdefgh", -1)
    for number, (what, kernel, layer, size) in enumerate(history):
        if what == "put":
            values[kernel] = number
            assert list(cache.put(kernel, number, size, layer)) == model.use(kernel, layer, size)
        else:
            held = any(row[0] == kernel for row in model.rows)
            assert cache.get(kernel, layer) == (values[kernel] if held else None)
            model.use(kernel, layer, None)
        assert [one for one in "abcdefgh" if one in cache] == sorted(
            str(row[0]) for row in model.rows
        )
        assert (cache.figures().entries, cache.figures().bytes) == (
            len(model.rows),
            sum(int(row[2]) for row in model.rows),
        )


@given(LIMITS, HISTORY)
def test_limits_hold_and_counts_add_up(
    limits: CacheLimits, history: list[tuple[str, str, str, int]]
) -> None:
    """No limit is ever exceeded; every look-up is a hit or a miss.

    What came in is there, was replaced, was refused or left; layers add up to all.
    """
    cache: KernelCache[int] = KernelCache(limits)
    puts = refused = replaced = left = looked = 0
    for what, kernel, layer, size in history:
        if what == "get":
            looked += 1
            before = len(cache)
            cache.get(kernel, layer)
            left += before - len(cache)
        else:
            puts += 1
            replaced += kernel in cache
            refused += size > min(limits.bytes, limits.layer_bytes)
            left += len(cache.put(kernel, 0, size, layer))
        found = cache.figures()
        assert found.entries == len(cache) <= limits.entries
        assert found.bytes <= limits.bytes
        for name in ("one", "two"):
            assert cache.figures(name).bytes <= limits.layer_bytes
        assert found.hits + found.misses == looked
        assert found.evictions == left
        assert puts - refused - replaced - left == found.entries
        each = [cache.figures(name) for name in ("", "one", "two")]
        for count in ("hits", "misses", "evictions", "entries", "bytes"):
            assert sum(getattr(one, count) for one in each) == getattr(found, count)


@given(LIMITS, HISTORY, KERNELS, LAYERS)
def test_what_was_used_last_is_kept(
    limits: CacheLimits, history: list[tuple[str, str, str, int]], kernel: str, layer: str
) -> None:
    """A kernel that fits is in the cache right after it was put, and after a hit, whatever was
    there before.
    """
    cache: KernelCache[int] = KernelCache(limits)
    for what, one, its_layer, size in history:
        if what == "put":
            cache.put(one, 0, size, its_layer)
        else:
            cache.get(one, its_layer)
    size = min(limits.bytes, limits.layer_bytes)
    cache.put(kernel, 1, size, "")
    assert cache.get(kernel, layer) == 1
    assert kernel in cache
