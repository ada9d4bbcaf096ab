"""The loader is a real child process: good, damaged and missing kernels, a child that is killed or
hangs, and trainers that share a disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from esper.clock import SystemClock
from esper.events import Origin
from esper.events.records import KernelPublished
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.kasmina import loader as loading
from esper.kasmina.loader import CacheSettings, KernelLoader, Loaded
from esper.kernels.build import module_of, weights_of
from esper.urza.artefact import seal
from esper.urza.local import LocalStore
from esper.urza.memory_tier import CacheLimits
from esper.urza.sealed import SealedKernels
from esper.vault.boxes import BOX_BYTES, KERNELS, Box, is_sealed
from tests.waiting import PATIENCE_S

T = TypeVar("T")
CLOCK = SystemClock()
BOX = Box(KERNELS, b"k" * 32)
STEPS = 50  # calls that come back while something hangs: one that waited for it would not


class Trainer:
    """The trainer's end, which counts its calls that came back."""

    def __init__(self, folder: Path, name: str, settings: CacheSettings | None = None) -> None:
        self.loader = KernelLoader(
            folder / "store",
            folder / name,
            folder / "shared",
            CLOCK,
            BOX,
            settings or CacheSettings(),
        )
        self.calls = 0
        self.loader.start()

    @property
    def pid(self) -> int:
        """The child."""
        assert self.loader._child is not None
        return self.loader._child.pid

    def called(self, call: Callable[[], T]) -> T:
        """What a call gives."""
        found = call()
        self.calls += 1
        return found

    def request(self, *kernels: KernelPublished, layer: str = "") -> None:
        """Ask for kernels."""
        for kernel in kernels:
            self.called(partial(self.loader.request, kernel, layer=layer))

    def wait(self, count: int = 1, seconds: float = PATIENCE_S) -> list[Loaded]:
        """The next `count` kernels."""
        found: list[Loaded] = []
        deadline = CLOCK.monotonic() + seconds
        while len(found) < count:
            assert CLOCK.monotonic() < deadline
            found += self.called(self.loader.ready)
            CLOCK.sleep(0.005)
        return found

    def get(self, kernel: KernelPublished, layer: str = "") -> Loaded:
        """Ask for one kernel and wait for it."""
        self.request(kernel, layer=layer)
        return self.wait()[0]

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Take steps until the condition holds; nothing may come that was not asked for."""
        deadline = CLOCK.monotonic() + seconds
        while not condition():
            assert CLOCK.monotonic() < deadline
            assert self.called(self.loader.ready) == []
            CLOCK.sleep(0.005)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Makes trainers that share a store and a disk."""
    made: list[Trainer] = []

    def make(name: str = "run", settings: CacheSettings | None = None) -> Trainer:
        made.append(Trainer(tmp_path, name, settings))
        return made[-1]

    yield make
    for trainer in made:
        trainer.loader.stop()


def publish(root: Path, seed: int, *, plain: bool = False) -> KernelPublished:
    """Put a conv1d kernel into the store; in the clear, as an older Esper did, if `plain`."""
    ir = generate(
        in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=seed
    )
    assert ir is not None
    sealed = seal(ir, weights_of(module_of(ir)))
    store = LocalStore(root)
    (store if plain else SealedKernels(store, BOX)).put_if_absent(sealed.address, sealed.content)
    return KernelPublished(
        **Origin("", "test", "0" * 32, CLOCK).envelope(sealed.kernel_id),
        kernel_id=sealed.kernel_id,
        **ir.description,
        address=sealed.address,
        sha256=sealed.sha256,
        size_bytes=len(sealed.content),
        tags=(),
        parents=(),
        latency_us=0.0,
    )


def damage(path: Path, *, cut: bool = False) -> None:
    """Flip one bit of a file, or cut it off in the middle.

    In place, so that every name of it is damaged.
    """
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content[: len(content) // 2] if cut else content)


def test_a_published_kernel_comes_out_as_it_was_built(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Slots from the store and from memory compute what the blueprint's own module computes, bit
    for bit, and share no weights; no stream moves.
    """
    kernel, trainer = publish(tmp_path / "store", 1), start()
    first = trainer.get(kernel)
    before = torch.get_rng_state()
    slots = [first.slot(), trainer.get(kernel).slot()]
    assert torch.equal(torch.get_rng_state(), before)
    ir = generate(
        in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1
    )
    assert ir is not None
    x = torch.randn(3, 40)
    for slot in slots:
        assert torch.equal(slot.kernel(x), module_of(ir)(x))
        with torch.no_grad():
            for parameter in slot.kernel.parameters():
                parameter.zero_()


def test_each_tier_gives_to_those_above_it(start: Callable[..., Trainer], tmp_path: Path) -> None:
    """The first run gets a kernel from the store, then from memory without its child.

    A second run gets it from the disk, though the store is gone.
    """
    kernel, one, two = publish(tmp_path / "store", 1), start("one"), start("two")
    assert one.get(kernel, "a").unpacked is not None
    os.kill(one.pid, signal.SIGSTOP)
    one.request(kernel, layer="b")
    assert [loaded.error for loaded in one.called(one.loader.ready)] == [""]
    os.kill(one.pid, signal.SIGCONT)
    (tmp_path / "store" / kernel.address).unlink()
    assert two.get(kernel).unpacked is not None
    first, second = one.loader.figures(), two.loader.figures()
    assert (first.hits_memory, first.hits_disk, first.hits_store, first.misses) == (1, 0, 1, 0)
    assert (second.hits_memory, second.hits_disk, second.hits_store, second.misses) == (0, 1, 0, 0)
    assert first.latency_us < 1000
    layers = [one.loader.layer_figures(name) for name in "abc"]
    assert [(layer.hits, layer.misses, layer.entries) for layer in layers] == [
        (0, 1, 0),
        (1, 0, 1),
        (0, 0, 0),
    ]
    assert layers[1].bytes == first.bytes == 4 * kernel.parameters


def test_memory_keeps_to_its_limits(start: Callable[..., Trainer], tmp_path: Path) -> None:
    """With room for two, the third kernel pushes out the one used least recently, which then comes
    from the disk.
    """
    trainer = start(settings=CacheSettings(CacheLimits(entries=2)))
    kernels = [publish(tmp_path / "store", seed) for seed in (1, 2, 3)]
    for kernel in (kernels[0], kernels[1], kernels[0], kernels[2], kernels[0], kernels[1]):
        assert trainer.get(kernel).unpacked is not None
    found = trainer.loader.figures()
    assert (
        found.hits_memory,
        found.hits_store,
        found.hits_disk,
        found.evictions,
        found.entries,
    ) == (2, 3, 1, 2, 2)
    assert found.limit_entries == 2


def test_damaged_and_missing_artefacts_are_refused_by_name(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """One flipped bit, and a file that is gone, give a sentence with the kernel's id and nothing to
    load; the loader goes on.
    """
    trainer = start()
    damaged, gone, good = (publish(tmp_path / "store", seed) for seed in (1, 2, 3))
    damage(tmp_path / "store" / damaged.address)
    (tmp_path / "store" / gone.address).unlink()
    for kernel in (damaged, gone):
        loaded = trainer.get(kernel)
        assert loaded.unpacked is None
        assert kernel.kernel_id in loaded.error
    assert trainer.get(good).unpacked is not None
    assert trainer.loader.figures().misses == 2


@pytest.mark.parametrize("cut", [False, True], ids=["one bit", "cut off"])
def test_a_damaged_file_on_the_disk_is_replaced_from_the_store(
    start: Callable[..., Trainer], tmp_path: Path, *, cut: bool
) -> None:
    """What is damaged in the shared folder is noticed, counted and replaced.

    The run that had loaded it before goes on with it from memory.
    """
    kernel, one = publish(tmp_path / "store", 1), start("one")
    assert one.get(kernel).unpacked is not None
    path = tmp_path / "shared" / f"{kernel.kernel_id}.safetensors"
    whole = path.read_bytes()
    damage(path, cut=cut)
    two, three = start("two"), start("three")
    assert two.get(kernel).unpacked is not None
    assert (two.loader.figures().damaged, two.loader.figures().hits_store) == (1, 1)
    assert path.read_bytes() == whole == (tmp_path / "two" / path.name).read_bytes()
    assert three.get(kernel).unpacked is not None
    assert (three.loader.figures().damaged, three.loader.figures().hits_disk) == (0, 1)
    assert torch.equal(
        one.get(kernel).slot().kernel(torch.ones(1, 40)),
        two.get(kernel).slot().kernel(torch.ones(1, 40)),
    )


def test_prefetched_kernels_are_in_memory_when_they_are_asked_for(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Of four kernels offered, the first three are fetched ahead.

    Asking for one is then a hit, and what is damaged stays silent.
    """
    trainer = start(settings=CacheSettings(prefetch=3))
    kernels = [publish(tmp_path / "store", seed) for seed in (1, 2, 3, 4)]
    damage(tmp_path / "store" / kernels[1].address)
    trainer.loader.prefetch(kernels)
    trainer.until(lambda: trainer.loader.figures().prefetched == 2 and not trainer.loader._pending)
    trainer.request(kernels[0], kernels[2])
    assert [loaded.kernel_id for loaded in trainer.loader.ready()] == [
        kernels[0].kernel_id,
        kernels[2].kernel_id,
    ]
    found = trainer.loader.figures()
    assert (found.hits_memory, found.hits_disk, found.hits_store, found.misses, found.entries) == (
        2,
        0,
        0,
        0,
        2,
    )


def test_a_prefetch_that_hangs_holds_up_no_request(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """With a FIFO in the store for the kernel to prefetch, a real request is answered while the
    prefetch hangs on.
    """
    trainer = start()
    hanging, good = publish(tmp_path / "store", 1), publish(tmp_path / "store", 2)
    path = tmp_path / "store" / hanging.address
    path.unlink()
    os.mkfifo(path)
    trainer.loader.prefetch([hanging])
    assert trainer.called(trainer.loader.ready) == []
    assert trainer.get(good).unpacked is not None
    assert trainer.loader._pending.keys() == {hanging.kernel_id}


@pytest.mark.parametrize("how", ["the store hangs", "the child is stopped"])
def test_a_load_that_hangs_fails_and_the_next_one_works(
    start: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Calls come back meanwhile; the failure says so in time.

    The child is replaced, what else was asked for is loaded, and so is the next kernel.
    """
    monkeypatch.setattr(loading, "TIMEOUT_S", 5.0)
    trainer = start()
    hanging, beside, later, first = (publish(tmp_path / "store", seed) for seed in (1, 2, 3, 4))
    assert trainer.get(first).unpacked is not None
    before = trainer.pid
    if how == "the store hangs":
        path = tmp_path / "store" / hanging.address
        path.unlink()
        os.mkfifo(path)
    else:
        os.kill(before, signal.SIGSTOP)
    trainer.request(hanging)
    calls = trainer.calls
    trainer.until(lambda: trainer.calls >= calls + STEPS)
    trainer.request(beside)
    found = {loaded.kernel_id: loaded for loaded in trainer.wait(2)}
    assert found[hanging.kernel_id].error == (
        f"Kernel {hanging.kernel_id} was not loaded within 5 s; see whether the store answers."
    )
    assert found[beside.kernel_id].unpacked is not None
    assert trainer.get(later).unpacked is not None
    assert trainer.pid != before
    assert (trainer.loader.figures().misses, trainer.loader.figures().hits_store) == (1, 3)


def test_a_stopped_child_with_full_pipes_holds_up_no_step(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """A thousand requests, more than a pipe takes, are asked of a child that stands still.

    Once it goes on, every one is answered.
    """
    trainer, kernel = start(), publish(tmp_path / "store", 1)
    os.kill(trainer.pid, signal.SIGSTOP)
    named = [
        KernelPublished(**{**kernel.to_avro(), "kernel_id": f"{number:064x}"})
        for number in range(1000)
    ]
    trainer.request(*named)
    calls = trainer.calls
    trainer.until(lambda: trainer.calls >= calls + STEPS)
    os.kill(trainer.pid, signal.SIGCONT)
    found = trainer.wait(1000)
    assert {loaded.kernel_id for loaded in found} == {one.kernel_id for one in named}
    assert all("another kernel" in loaded.error for loaded in found)


def test_a_killed_child_is_started_again_and_asked_again(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Kill -9 of the child, again and again in the middle of its work, loses no request and leaves
    no half file under a kernel's name.
    """
    trainer = start()
    kernels = [publish(tmp_path / "store", seed) for seed in range(1, 13)]
    found: list[Loaded] = []
    for number, kernel in enumerate(kernels):
        trainer.request(kernel)
        deadline = CLOCK.monotonic() + 0.1 * number
        while CLOCK.monotonic() < deadline:
            found += trainer.called(trainer.loader.ready)
            CLOCK.sleep(0.002)
        if trainer.loader._child is not None:
            trainer.loader._child.kill()
    found += trainer.wait(len(kernels) - len(found))
    assert {loaded.kernel_id for loaded in found if loaded.unpacked} == {
        kernel.kernel_id for kernel in kernels
    }
    stored = {path.name: path.read_bytes() for path in (tmp_path / "store" / "kernels").iterdir()}
    for folder in ("run", "shared"):
        held = [path for path in (tmp_path / folder).iterdir() if path.suffix != ".partial"]
        assert held
        assert all(path.read_bytes() == stored[path.name] for path in held)


def in_the_clear(folder: Path) -> list[Path]:
    """Files below a folder that are not sealed."""
    return [
        path for path in folder.rglob("*") if path.is_file() and not is_sealed(path.read_bytes())
    ]


@pytest.mark.parametrize("plain", [False, True], ids=["sealed", "of an older Esper"])
def test_kernels_lie_sealed_wherever_they_are_kept(
    start: Callable[..., Trainer], tmp_path: Path, *, plain: bool
) -> None:
    """Shared disk and run folders hold sealed files alone, also where the store still has them in
    the clear; the weights are in none.
    """
    kernel = publish(tmp_path / "store", 1, plain=plain)
    assert start("one").get(kernel).unpacked is not None
    assert start("two").get(kernel).unpacked is not None
    for folder in ("one", "two", "shared"):
        assert list((tmp_path / folder).iterdir())
        assert in_the_clear(tmp_path / folder) == []
    assert bool(in_the_clear(tmp_path / "store")) == plain


def test_a_file_that_an_older_run_left_on_the_disk_is_used_and_sealed(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Such a file on the shared disk counts as a hit.

    Afterwards it is sealed there too, without the store.
    """
    kernel = publish(tmp_path / "store", 1, plain=True)
    (tmp_path / "shared").mkdir()
    (tmp_path / "store" / kernel.address).rename(
        tmp_path / "shared" / f"{kernel.kernel_id}.safetensors"
    )
    trainer = start("one")
    assert trainer.get(kernel).unpacked is not None
    assert (trainer.loader.figures().hits_disk, trainer.loader.figures().damaged) == (1, 0)
    assert in_the_clear(tmp_path / "shared") == in_the_clear(tmp_path / "one") == []


def test_a_kernel_sealed_for_another_id_is_refused(
    start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """A sealed file under the name of another kernel does not open."""
    one, two = publish(tmp_path / "store", 1), publish(tmp_path / "store", 2)
    (tmp_path / "store" / one.address).write_bytes((tmp_path / "store" / two.address).read_bytes())
    assert "it is not what was sealed under this name with this key" in start().get(one).error


def test_two_trainers_share_a_small_disk(start: Callable[..., Trainer], tmp_path: Path) -> None:
    """Two runs, without memory of their own, load the same kernels at once through a disk that
    holds three: all come whole, and the limit holds.
    """
    kernels = [publish(tmp_path / "store", seed) for seed in range(1, 9)]
    room = 3 * max(kernel.size_bytes + BOX_BYTES for kernel in kernels)
    settings = CacheSettings(CacheLimits(bytes=1), disk_bytes=room)
    one, two = start("one", settings), start("two", settings)
    for _ in range(5):
        one.request(*kernels)
        two.request(*reversed(kernels))
        for trainer in (one, two):
            assert [loaded.error for loaded in trainer.wait(len(kernels)) if loaded.error] == []
    held = sum(path.stat().st_size for path in (tmp_path / "shared").iterdir())
    assert 0 < held <= room
    for trainer in (one, two):
        found = trainer.loader.figures()
        assert found.hits_disk + found.hits_store == 40
        assert (found.hits_memory, found.damaged, found.entries) == (0, 0, 0)
        assert found.hits_disk > 0


def test_the_child_imports_no_torch() -> None:
    """The loader process starts without torch, whose import takes seconds and half a gigabyte."""
    code = "import sys, esper.urza.loading; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode
        == 0
    )
