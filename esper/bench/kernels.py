"""Compiling kernels, and having them again: the cache's tiers, and a graft on the
training thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from esper.bench.estimate import Estimate, Samples, median, p99, rate
from esper.bench.figure_registry import Bench, figure
from esper.events import Origin
from esper.events.records import KernelPublished
from esper.karn import BUILT_IN
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.templates import generate
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.loader import KernelLoader, Loaded
from esper.kernels.build import module_of, weights_of
from esper.tezzeret.compile import compile_kernel
from esper.urza.artefact import seal
from esper.urza.local import LocalStore
from esper.urza.memory_tier import CacheLimits, KernelCache
from esper.urza.sealed import SealedKernels
from esper.urza.store import Store
from esper.vault.boxes import KERNELS, Box

BUDGET = Budget.of(20_000)
_BOX = Box(KERNELS, bytes(32))
_OPERATIONS = 20_000
_ROUNDS = 12
_GRAFTS = 400
_PATIENCE_S = 60.0


def blueprint(family: str, seed: int) -> BlueprintIR | None:
    """A blueprint for a chunk of MNIST-1D's first layer; None where the family has none for it."""
    return generate(in_features=40, out_features=25, family=family, budget=BUDGET, seed=seed)


@dataclass(frozen=True)
class KernelSet:
    """Kernels in a store, and a loader that has all of them in memory."""

    kernels: tuple[KernelPublished, ...]
    loader: KernelLoader


def _publish(bench: Bench, store: Store, ir: BlueprintIR) -> KernelPublished:
    sealed = seal(ir, weights_of(module_of(ir)))
    store.put_if_absent(sealed.address, sealed.content)
    return KernelPublished(
        **Origin("", "bench", "0" * 32, bench.clock).envelope(sealed.kernel_id),
        kernel_id=sealed.kernel_id,
        **ir.description,
        address=sealed.address,
        sha256=sealed.sha256,
        size_bytes=len(sealed.content),
        tags=(),
        parents=(),
        latency_us=0.0,
    )


def _wait(bench: Bench, loader: KernelLoader) -> Loaded:
    """The next kernel, or, when none comes, one that has failed."""
    deadline = bench.clock.monotonic() + _PATIENCE_S
    while not (found := loader.ready()) and bench.clock.monotonic() < deadline:
        # finer than what is measured: milliseconds
        bench.clock.sleep(1e-4)
    return (
        found[0]
        if found
        else Loaded(
            "", None, "The loader gave nothing; see whether the machine has processes left."
        )
    )


def _loader(bench: Bench, name: str) -> KernelLoader:
    folder = bench.folder / "cache"
    loader = KernelLoader(folder / "store", folder / name, folder / "shared", bench.clock, _BOX)
    loader.start()
    bench.held.callback(loader.stop)
    return loader


def shelf(bench: Bench) -> KernelSet:
    """A store with a kernel of each family, which a first run has loaded: they are on the shared
    disk too.
    """
    torch.set_num_threads(1)
    store = SealedKernels(LocalStore(bench.folder / "cache" / "store"), _BOX)
    kernels = tuple(
        _publish(bench, store, ir)
        for family in BUILT_IN
        if (ir := blueprint(family.name, 1)) is not None
    )
    loader = _loader(bench, "first")
    for kernel in kernels:
        loader.request(kernel)
        _wait(bench, loader).slot()
    return KernelSet(kernels, loader)


@figure(
    "cache_operations",
    "/s",
    "look-ups and insertions in the memory tier, half each, with evictions",
    at_least=100_000,
)
def cache_operations(bench: Bench) -> Estimate:
    """Twice as many kernels as there is room for, in a fixed order."""
    # seeded: the order decides how many evictions there are
    names = [
        f"{number:064x}" for number in np.random.default_rng(0).integers(0, 256, _OPERATIONS // 2)
    ]
    layers = [f"layers.{number % 12}" for number in range(len(names))]

    def work() -> None:
        cache: KernelCache[int] = KernelCache(CacheLimits())
        for name, layer in zip(names, layers, strict=True):
            cache.get(name, layer)
            cache.put(name, 1, 100_000, layer)

    return rate(_OPERATIONS, np.array([bench.processor_seconds(work) for _ in range(_ROUNDS)]))


@figure("cache_hit", "ms", "a kernel in memory, from asking to having it", at_most=1)
def cache_hit(bench: Bench) -> Estimate:
    """Request and ready, without building."""
    found = bench.once(shelf)
    seconds = []
    for number in range(_GRAFTS):
        began = bench.clock.monotonic()
        found.loader.request(found.kernels[number % len(found.kernels)], layer="0")
        found.loader.ready()
        seconds.append(bench.clock.monotonic() - began)
    return p99(np.array(seconds)).scaled(1e3)


@figure(
    "kernel_from_cache",
    "ms",
    "a kernel from the shared disk, verified, to a built module in another run",
    at_most=50,
)
def kernel_from_cache(bench: Bench) -> Estimate:
    """The whole way through a loader process that has started, for runs that have nothing in
    memory.
    """
    found, seconds = bench.once(shelf), []
    for number in range(4):
        loader = _loader(bench, f"run-{number}")
        for position, kernel in enumerate(found.kernels):
            began = bench.clock.monotonic()
            loader.request(kernel)
            _wait(bench, loader).slot()
            if position:  # the first answer waits for the child to start
                seconds.append(bench.clock.monotonic() - began)
        loader.stop()
    return median(np.array(seconds)).scaled(1e3)


@figure("graft", "ms", "graft of a cached kernel on the training thread, p99", at_most=5)
def graft(bench: Bench) -> Estimate:
    """Ask, take out of memory, build, and put into the slot with an optimizer of its own.

    Kernels of every family in turn.
    """
    found = bench.once(shelf)
    growing = GrowingModel(germinate(nn.Sequential(nn.Linear(40, 100))), training=KernelTraining())

    def work(kernel: KernelPublished) -> None:
        found.loader.request(kernel, layer="0")
        (loaded,) = found.loader.ready()
        growing.graft(("0", 0), loaded.slot())

    seconds = []
    for number in range(_GRAFTS):
        seconds.append(bench.seconds(partial(work, found.kernels[number % len(found.kernels)])))
        # outside of what is timed: the figure is the graft alone
        growing.release(("0", 0))
    return p99(np.array(seconds)).scaled(1e3)


def compilations(bench: Bench) -> Samples:
    """Seconds to build, export, verify and seal a blueprint, three of each family.

    The first in the process, which loads the compiler, is left out.
    """
    torch.set_num_threads(1)
    made = [
        ir
        for seed in range(3)
        for family in BUILT_IN
        if (ir := blueprint(family.name, seed)) is not None
    ]
    seconds = [
        bench.seconds(
            partial(compile_kernel, ir, BUDGET, clock=bench.clock, progress=lambda _: None)
        )
        for ir in made
    ]
    return np.array(seconds[1:])


@figure("compilation", "s", "one blueprint built, exported, verified and sealed", at_most=5)
def compilation(bench: Bench) -> Estimate:
    """Over every family."""
    return median(bench.once(compilations))


@figure("compilations_minute", "/min", "blueprints a minute", at_least=10)
def compilations_minute(bench: Bench) -> Estimate:
    """The same as a rate."""
    return median(60 / bench.once(compilations))
