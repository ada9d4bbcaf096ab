"""What snapshots cost: the training thread's stall beside one plain copy of the state and beside
other ways to save, and the bytes of the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import async_save

from esper.bench.estimate import Estimate, Samples, exactly, median
from esper.bench.figure_registry import Bench, figure
from esper.checkpoint import SnapshotWriter, Stored, Taken, TensorStore
from esper.errors import StorageFullError
from esper.urza.local import LocalStore
from esper.vault.family_keys import FamilyKey

MB: Final = 1_000_000
_SIZES: Final = {
    "10mb": (10 * MB, 9),
    "100mb": (100 * MB, 5),
    "1gb": (1_000 * MB, 3),
}  # bytes of the state, rounds
_TENSORS: Final = 26
_STEPS: Final = 20


def tensors_in(folder: Path, cold: Path | None = None, *, readers: int = 4) -> TensorStore:
    """A tensor store of the benchmarks' own."""
    return TensorStore(
        LocalStore(folder),
        FamilyKey("bench", bytes(32)),
        LocalStore(cold) if cold else None,
        readers,
    )


def state_of(size: int) -> dict[str, Tensor]:
    """About `size` bytes of random floats in 26 tensors: half model, half optimizer."""
    generator = torch.Generator().manual_seed(0)
    kinds = ("model", "host")
    return {
        f"{kinds[number % 2]}/{number}": torch.randn(size // _TENSORS // 4, generator=generator)
        for number in range(_TENSORS)
    }


def stored_of(taken: Taken | None) -> Stored:
    """What was stored.

    Raises:
        StorageFullError: nothing was.
    """
    if taken is None or taken.stored is None:
        raise StorageFullError(
            f"The snapshot was not written: {taken.error if taken else 'none was under way'}"
        )
    return taken.stored


@dataclass(frozen=True)
class _Stalls:
    """Of each round: seconds that the training thread waits, for ours and for each other way.

    Processor's time of ours over that of one copy.
    """

    ours: Samples
    against_copy: Samples
    others: dict[str, Samples]

    @property
    def against_fastest(self) -> Samples:
        fastest: Samples = np.min(np.array(list(self.others.values())), axis=0)
        return fastest / self.ours


def _measured(bench: Bench, size: int, rounds: int) -> _Stalls:
    """All in turns in each round; what goes on behind a save has ended before the next begins.

    The first round is left out: it allocates.
    """
    torch.set_num_threads(1)
    state, folder = state_of(size), bench.folder / f"stalls-{size}"
    # allocated before: the plain copy pays for no new pages
    copies = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    writer = SnapshotWriter(tensors_in(folder / "ours"), bench.clock)

    def copy() -> None:
        for name, tensor in state.items():
            copies[name].copy_(tensor)

    def begin() -> None:
        writer.begin(state, {}, None, digest=lambda _: "")

    def behind(number: int) -> None:
        saving = async_save(
            dict(state), checkpoint_id=folder / f"distributed-{number}", no_dist=True
        )
        assert isinstance(saving, Future)  # noqa: S101  # as its default has it
        pending.append(saving)

    pending: list[Future[None]] = []
    found: dict[str, list[float]] = {
        name: [] for name in ("ours", "torch.save", "async_save", "safetensors")
    }
    ratios = []
    for number in range(rounds + 1):
        bench.progress(f"stalls at {size // MB} MB, round {number} of {rounds}")
        plain = bench.processor_seconds(copy)
        ratios.append(bench.processor_seconds(begin) / plain)
        stored_of(writer.collect(wait=True))
        found["ours"].append(bench.seconds(begin))
        stored_of(writer.collect(wait=True))
        found["torch.save"].append(bench.seconds(partial(torch.save, state, folder / "torch.pt")))
        found["safetensors"].append(
            bench.seconds(partial(save_file, state, folder / "file.safetensors"))
        )
        found["async_save"].append(bench.seconds(partial(behind, number)))
        pending.pop().result()
        shutil.rmtree(folder / f"distributed-{number}")
    shutil.rmtree(folder)
    samples = {name: np.array(seconds[1:]) for name, seconds in found.items()}
    return _Stalls(samples.pop("ours"), np.array(ratios[1:]), samples)


def _small(bench: Bench) -> _Stalls:
    return _measured(bench, *_SIZES["10mb"])


def _middle(bench: Bench) -> _Stalls:
    return _measured(bench, *_SIZES["100mb"])


def _large(bench: Bench) -> _Stalls:
    return _measured(bench, *_SIZES["1gb"])


def _register(name: str, size: str, stalls: Callable[[Bench], _Stalls]) -> None:
    @figure(
        f"checkpoint_stall_{name}",
        "x",
        (
            f"what a snapshot of {size} costs the training thread, in copies of its state into "
            "memory that is there"
        ),
        at_most=1.2,
    )
    def against_copy(bench: Bench) -> Estimate:
        return median(bench.once(stalls).against_copy)

    @figure(
        f"checkpoint_saves_{name}",
        "x",
        (
            "the fastest stall of torch.save, torch.distributed's async_save and safetensors "
            f"over ours, at {size}"
        ),
        at_least=1,
    )
    def against_others(bench: Bench) -> Estimate:
        return median(bench.once(stalls).against_fastest)

    for other in ("torch.save", "async_save", "safetensors"):

        @figure(
            f"checkpoint_{other.replace('.', '_')}_{name}",
            "x",
            f"stall of {other} over ours, at {size}",
        )
        def against_one(bench: Bench, other: str = other) -> Estimate:
            found = bench.once(stalls)
            return median(found.others[other] / found.ours)


_register("10mb", "10 MB", _small)
_register("100mb", "100 MB", _middle)
_register("1gb", "1 GB", _large)


def _increments(bench: Bench, *, frozen: bool) -> Estimate:
    """Train a host with a small kernel beside it, Adam's moments in the state, and take two
    snapshots some steps apart.
    """
    torch.manual_seed(0)
    host = nn.Sequential(
        nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 256)
    )
    kernel = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 256))
    optimizers = {"kernels": torch.optim.AdamW(kernel.parameters())}
    host.requires_grad_(not frozen)
    if not frozen:
        optimizers["host"] = torch.optim.AdamW(host.parameters())
    writer, stored = (
        SnapshotWriter(tensors_in(bench.folder / f"increments-{frozen}"), bench.clock),
        [],
    )
    for _ in range(2):
        for _ in range(_STEPS):
            x = torch.randn(16, 256)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            (host(x) + kernel(x) - x).square().mean().backward()
            for optimizer in optimizers.values():
                optimizer.step()
        state = {f"model/host/{name}": tensor for name, tensor in host.state_dict().items()}
        state |= {f"model/kernel/{name}": tensor for name, tensor in kernel.state_dict().items()}
        state |= {
            f"{kind}/{number}/{key}": tensor
            for kind, optimizer in optimizers.items()
            for number, slots in enumerate(optimizer.state.values())
            for key, tensor in slots.items()
        }
        writer.begin(state, {}, None, digest=lambda _: "")
        stored.append(stored_of(writer.collect(wait=True)).stored_bytes)
    return exactly(stored[0] / stored[1])


@figure(
    "checkpoint_increment",
    "x",
    "bytes of a first snapshot over those of the next, 20 steps later, with the host frozen",
    at_least=10,
)
def checkpoint_increment(bench: Bench) -> Estimate:
    """A host of 1.6 million parameters that does not change, a kernel of 16,000 that does."""
    return _increments(bench, frozen=True)


@figure(
    "checkpoint_increment_training",
    "x",
    "the same in ordinary training, where every tensor changes",
)
def checkpoint_increment_training(bench: Bench) -> Estimate:
    """About 1: nothing that every step changes can be shared."""
    return _increments(bench, frozen=False)
