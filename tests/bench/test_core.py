"""Benchmarks of the core, off by default: `make bench`. Figures of one group stand side by side in one run; compare medians as ratios."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from esper.clock import ManualClock, SystemClock
from esper.events import Origin, decode, encode
from esper.events.records import LayerInventory, TrainingStep
from esper.karn.families import generate
from esper.karn.ir import Budget
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.kasmina.loader import slot_of
from esper.kasmina.statistics import LayerStatistics
from esper.lifecycle import Context, Guardrails, RunState, decide, evolve
from esper.lifecycle.commands import EndEpoch, RunCommand, StartRun
from esper.oona.emitter import TelemetryRing
from esper.tezzeret.build import module_of, weights_of
from esper.urza.artefact import seal

ORIGIN = Origin("bench", "trainer", "0" * 32, SystemClock())


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(12) for part in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(256, 10))


@pytest.mark.benchmark(group="step of a 13-layer MLP, batch 512")
@pytest.mark.parametrize("kind", ["plain", "plain again", "dormant", "dormant, sampled every 50 steps"])
def test_dormant_overhead(benchmark: Any, kind: str) -> None:
    """A training step with dormant seeds, beside the plain model, twice for the noise."""
    torch.set_num_threads(1)
    module = model() if kind.startswith("plain") else germinate(model())
    growing = None if kind.startswith("plain") else GrowingModel(module, training=KernelTraining())
    optimizer = torch.optim.AdamW(module.parameters())
    x, y = torch.randn(512, 256), torch.randint(0, 10, (512,))
    steps = itertools.count()

    def step() -> None:
        sample = "sampled" in kind and next(steps) % 50 == 49
        if growing is not None:
            growing.switches.sampling = sample
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        if growing is not None and sample:
            growing.observe_gradients()
            growing.read_statistics()
        optimizer.step()

    benchmark.pedantic(step, rounds=150, warmup_rounds=10)


@pytest.mark.benchmark(group="statistics of one layer")
@pytest.mark.parametrize("shape", [(100, 100), (512, 256), (32, 64, 56, 56), (32, 256, 28, 28)], ids=str)
def test_observe(benchmark: Any, shape: tuple[int, ...]) -> None:
    """What a layer pays when its statistics are taken: a Linear's output, and a convolution's, in four chunks."""
    torch.set_num_threads(1)
    output = torch.randn(shape)
    statistics = LayerStatistics(torch.zeros(4, 4), (shape[1] // 4,) * 4, -1 if len(shape) == 2 else -3)
    benchmark(statistics.observe, output)


def step_event(number: int) -> TrainingStep:
    return TrainingStep(
        **ORIGIN.envelope(f"step/{number}"),
        epoch=0,
        step=number,
        loss=1.0,
        accuracy=0.5,
        gradient_norm=1.0,
        learning_rate=1e-3,
        samples=100,
        duration_us=5,
    )


@pytest.mark.benchmark(group="one event")
def test_encode(benchmark: Any) -> None:
    """An event to a framed message with headers."""
    event = step_event(1)
    benchmark(encode, event)


@pytest.mark.benchmark(group="one event")
def test_decode(benchmark: Any) -> None:
    """A framed message to an event."""
    value = encode(step_event(1)).value
    benchmark(decode, value)


@pytest.mark.benchmark(group="one event")
def test_emit(benchmark: Any) -> None:
    """What the training thread pays to emit."""
    ring, event = TelemetryRing(), step_event(1)
    benchmark(ring.put, event)


@pytest.mark.benchmark(group="fold")
def test_fold_of_1000_events(benchmark: Any) -> None:
    """Decode and evolve a journal of 1,000 events."""
    state, context = RunState("bench"), Context(Origin("bench", "trainer", "0" * 32, ManualClock()), 0, Guardrails())
    layers = (LayerInventory(name="a", kind="Linear", in_features=4, out_features=4, parameters=20, chunks=(1, 1, 1, 1)),)
    start = StartRun(
        incarnation=0,
        recipe="b",
        config="{}",
        seed=0,
        decisions="LIVE",
        total_steps=1,
        layers=layers,
        parameters=1,
        source_sha256="",
        versions="",
        threads=1,
        instruction_set="",
        blas="",
        onednn=False,
    )
    figures = dict.fromkeys(
        ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "learning_rate"), 0.5
    )
    values = []
    commands: list[RunCommand] = [start, *[EndEpoch(step=0, parameters_digest="", alphas=(), **figures) for _ in range(999)]]
    for command in commands:
        for event in decide(state, command, context):
            state = evolve(state, event)
            values.append(encode(event).value)

    def fold() -> None:
        folded = RunState("bench")
        for value in values:
            folded = evolve(folded, decode(value))  # type: ignore[arg-type]
        assert folded == state

    benchmark(fold)


@pytest.mark.benchmark(group="graft")
def test_graft_of_a_cached_kernel(benchmark: Any, tmp_path: Path) -> None:
    """What the training thread pays to map a verified kernel into a slot and empty it again."""
    ir = generate(in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=1)
    assert ir is not None
    sealed = seal(ir, weights_of(module_of(ir)))
    path = tmp_path / "kernel.safetensors"
    path.write_bytes(sealed.content)
    growing = GrowingModel(germinate(nn.Sequential(nn.Linear(40, 100))), training=KernelTraining())

    def graft() -> None:
        growing.graft(("0", 0), slot_of(path, sealed.kernel_id))
        growing.release(("0", 0))

    benchmark(graft)
