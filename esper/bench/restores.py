"""What it takes to get a snapshot back: all of it, a part, from the cold store, and with several
readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from esper.bench.estimate import Estimate, Samples, median
from esper.bench.figure_registry import Bench, figure
from esper.bench.snapshots import MB, state_of, tensors_in
from esper.checkpoint import Snapshot
from esper.checkpoint.sweep import Rules, sweep

_BYTES: Final = 1_000 * MB
_ROUNDS: Final = 3
_READERS: Final = (1, 2, 4)
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True)
class _Restores:
    """Seconds of each round: by number of readers, of one kind of two, and from the cold store."""

    by_readers: dict[int, Samples]
    selective: Samples
    cold: Samples


def _measured(bench: Bench) -> _Restores:
    hot, cold = bench.folder / "restored", bench.folder / "cold"
    stores = {readers: tensors_in(hot, cold, readers=readers) for readers in _READERS}
    most = stores[_READERS[-1]]
    bench.progress("storing 1 GB")
    stored = most.write(Snapshot(state_of(_BYTES), {}))
    read = partial(most.read, stored.address, stored.sha256)
    by_readers: dict[int, list[float]] = {readers: [] for readers in _READERS}
    selective = []
    for number in range(_ROUNDS):
        bench.progress(f"restoring 1 GB, round {number + 1} of {_ROUNDS}")
        # in turns: page cache and clock rate treat all numbers of readers alike
        for readers, tensors in stores.items():
            by_readers[readers].append(
                bench.seconds(partial(tensors.read, stored.address, stored.sha256))
            )
        selective.append(bench.seconds(partial(read, kinds=("model",))))
    bench.progress("moving 1 GB to the cold store")
    # as if two days later: younger chunks stay in the hot store
    sweep(most, {}, Rules(), now_us=bench.clock.now_us() + 2 * _DAY_US, owner="bench")
    from_cold = [bench.seconds(read) for _ in range(_ROUNDS)]
    return _Restores(
        {readers: np.array(seconds) for readers, seconds in by_readers.items()},
        np.array(selective),
        np.array(from_cold),
    )


@figure(
    "restore_1gb",
    "s",
    "a snapshot of 1 GB read by four readers, every seal and hash verified",
    at_most=30,
)
def restore(bench: Bench) -> Estimate:
    """All of it, from the hot store."""
    return median(bench.once(_measured).by_readers[4])


@figure("restore_cold_1gb", "s", "the same from the cold store", at_most=30)
def restore_cold(bench: Bench) -> Estimate:
    """After every chunk was moved there."""
    return median(bench.once(_measured).cold)


@figure("restore_part_1gb", "s", "the model alone out of the same, half of it", at_most=30)
def restore_part(bench: Bench) -> Estimate:
    """What a kind does not have is not read."""
    return median(bench.once(_measured).selective)


@figure("restore_speedup_2", "x", "one reader's time over that of two")
def restore_speedup_two(bench: Bench) -> Estimate:
    """Rounds are paired."""
    found = bench.once(_measured).by_readers
    return median(found[1] / found[2])


@figure("restore_speedup_4", "x", "one reader's time over that of four")
def restore_speedup_four(bench: Bench) -> Estimate:
    """Rounds are paired."""
    found = bench.once(_measured).by_readers
    return median(found[1] / found[4])
