"""The loader is a real child process: good, damaged, missing kernels, and a child that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper.clock import SystemClock
from esper.events import Origin
from esper.events.records import KernelPublished
from esper.karn.families import generate
from esper.karn.ir import Budget
from esper.kasmina.loader import KernelLoader, Loaded, slot_of
from esper.tezzeret.build import module_of, weights_of
from esper.urza.artefact import seal
from esper.urza.local import LocalStore

CLOCK = SystemClock()


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[KernelLoader]:
    """A loader with a store of its own."""
    made = KernelLoader(tmp_path / "store", tmp_path / "cache", CLOCK)
    made.start()
    yield made
    made.stop()


def publish(root: Path, seed: int) -> KernelPublished:
    """Put a conv1d kernel into the store."""
    ir = generate(in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=seed)
    assert ir is not None
    sealed = seal(ir, weights_of(module_of(ir)))
    LocalStore(root).put_if_absent(sealed.address, sealed.content)
    return KernelPublished(
        **Origin("", "test", "0" * 32, CLOCK).envelope(sealed.kernel_id),
        kernel_id=sealed.kernel_id,
        blueprint_id=ir.blueprint_id,
        family=ir.family,
        in_features=40,
        out_features=25,
        tap=ir.tap,
        blend=ir.blend,
        parameters=ir.parameters,
        flops=ir.flops,
        address=sealed.address,
        sha256=sealed.sha256,
        size_bytes=len(sealed.content),
        tags=(),
        parents=(),
        latency_us=0.0,
    )


def wait(loader: KernelLoader) -> Loaded:
    """The next kernel that is ready."""
    while not (found := loader.ready()):
        CLOCK.sleep(0.005)
    return found[0]


def test_a_published_kernel_comes_out_as_it_was_built(loader: KernelLoader, tmp_path: Path) -> None:
    """The slot computes what the blueprint's own module computes, bit for bit, and the global random stream is not moved."""
    kernel = publish(tmp_path / "store", 1)
    loader.request(kernel)
    loaded = wait(loader)
    assert loaded.path is not None
    before = torch.get_rng_state()
    slot = slot_of(loaded.path, loaded.kernel_id)
    assert torch.equal(torch.get_rng_state(), before)
    ir = generate(in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1)
    assert ir is not None
    x = torch.randn(3, 40)
    assert torch.equal(slot.kernel(x), module_of(ir)(x))


def test_damaged_and_missing_artefacts_are_refused_by_name(loader: KernelLoader, tmp_path: Path) -> None:
    """One flipped bit, and a file that is gone, give a sentence with the kernel's id and nothing to load; the loader goes on."""
    damaged, gone, good = (publish(tmp_path / "store", seed) for seed in (1, 2, 3))
    path = tmp_path / "store" / damaged.address
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    (tmp_path / "store" / gone.address).unlink()
    for kernel in (damaged, gone):
        loader.request(kernel)
        loaded = wait(loader)
        assert loaded.path is None
        assert kernel.kernel_id in loaded.error
    loader.request(good)
    assert wait(loader).path is not None


def test_a_killed_child_is_started_again_and_asked_again(loader: KernelLoader, tmp_path: Path) -> None:
    """Kill -9 of the child before it answers loses no request."""
    kernel = publish(tmp_path / "store", 1)
    child = loader._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    loader.request(kernel)
    os.kill(child.pid, signal.SIGKILL)
    assert wait(loader).path is not None


def test_the_child_imports_no_torch() -> None:
    """The loader process starts without torch, whose import takes seconds and half a gigabyte."""
    code = "import sys, esper.urza.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
