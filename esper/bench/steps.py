"""What seeds, kernels and telemetry cost a training step, in processor time of one thread.

What is compared was measured side by side, in turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from esper.bench.estimate import Estimate, Samples, difference, overhead, rate
from esper.bench.figure_registry import Bench, figure
from esper.events import Origin
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.kasmina import GrowingModel, KernelTraining, Slot, germinate
from esper.kasmina.monitor import SeedMonitor
from esper.kasmina.seeded.layers import SeededLayer
from esper.kernels.build import module_of
from esper.lifecycle import Context, Guardrails, RunState, decide, evolve
from esper.lifecycle.commands import StartRun
from esper.oona.bus.emitter import TelemetryRing
from esper.tolaria.exchange.telemetry import Telemetry
from esper.tolaria.recipes.recipe import OWNER, GatesSection, function, load
from esper.tolaria.step.method import Method
from esper.tolaria.step.stepping import Stepper
from esper.tolaria.step.tasks import CLASSIFICATION

LAYERS = 13
EVERY = 50  # steps between two samples of seed statistics, as in a recipe by default
_ROUNDS = 60
_FORWARDS = 200
_STEPS = 40


def started(growing: GrowingModel, origin: Origin) -> RunState:
    """The state of a run of `growing` that has just begun."""
    nothing = dict.fromkeys(("source_sha256", "versions", "instruction_set", "blas"), "")
    start = StartRun(
        incarnation=0,
        recipe="bench",
        config="{}",
        seed=0,
        decisions="LIVE",
        total_steps=1000,
        layers=growing.inventory(),
        parameters=1,
        threads=1,
        onednn=False,
        **nothing,
    )
    state = RunState("bench")
    for event in decide(state, start, Context(origin, 0, Guardrails())):
        state = evolve(state, event)
    return state


def origin_of(bench: Bench) -> Origin:
    """Where this run's events come from."""
    return Origin("bench", "trainer", "0" * 32, bench.clock)


@dataclass(frozen=True)
class _Network:
    """One copy of the network of 13 Linear layers, and its step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: torch.Tensor
    labels: torch.Tensor

    def step(self) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.module(self.inputs), self.labels).backward()
        self.optimizer.step()


def _network(*, seeded: bool) -> _Network:
    torch.manual_seed(0)
    parts = [part for _ in range(LAYERS - 1) for part in (nn.Linear(256, 256), nn.ReLU())]
    module: nn.Module = nn.Sequential(*parts, nn.Linear(256, 10))
    if seeded:
        germinate(module)
    return _Network(
        module,
        torch.optim.AdamW(module.parameters()),
        torch.randn(512, 256),
        torch.randint(0, 10, (512,)),
    )


def in_turns(
    bench: Bench, works: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Samples]:
    """Processor seconds [rounds] of each work, one of each in a round, the first one of a round
    moving on; the first round is not counted.
    """
    names = list(works)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        # the first of a round finds the caches of the last: each is that equally often
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(bench.processor_seconds(works[name]))
    return {name: np.array(seconds[1:]) for name, seconds in found.items()}


def steps(bench: Bench) -> dict[str, Samples]:
    """Seconds of a step: plain, plain again, with dormant seeds, and with all the telemetry of a
    step on which statistics are sampled.
    """
    # more threads would measure what else the machine does
    torch.set_num_threads(1)
    plain, again, dormant, sampled = (
        _network(seeded=seeded) for seeded in (False, False, True, True)
    )
    GrowingModel(dormant.module, training=KernelTraining())
    growing, origin = GrowingModel(sampled.module, training=KernelTraining()), origin_of(bench)
    state, ring, numbers = started(growing, origin), TelemetryRing(), itertools.count()
    monitor = SeedMonitor(growing)
    telemetry = Telemetry(
        origin=origin, emit=ring.put, growing=growing, monitor=monitor, gates=GatesSection()
    )

    def sample() -> None:
        growing.switches.sampling = True
        sampled.step()
        growing.observe_gradients()
        monitor.sampled(state)
        telemetry.seeds(state, {}, step=next(numbers), loss=1.0)

    return in_turns(
        bench,
        {"plain": plain.step, "again": again.step, "dormant": dormant.step, "sampled": sample},
        _ROUNDS,
    )


@figure(
    "step_noise", "%", "difference of two identical plain models: no overhead below it can be told"
)
def step_noise(bench: Bench) -> Estimate:
    """Plain against plain."""
    found = bench.once(steps)
    return overhead(found["again"], found["plain"])


@figure(
    "dormant_overhead",
    "%",
    f"a step with dormant seeds in {LAYERS} layers, beside the plain model",
    at_most=1,
)
def dormant_overhead(bench: Bench) -> Estimate:
    """Dormant against plain."""
    found = bench.once(steps)
    return overhead(found["dormant"], found["plain"])


@figure("dormant_overhead_layer", "us", "the same, a layer", at_most=100)
def dormant_overhead_layer(bench: Bench) -> Estimate:
    """Dormant less plain, a layer."""
    found = bench.once(steps)
    return difference(found["dormant"], found["plain"]).scaled(1e6 / LAYERS)


@figure(
    "telemetry_overhead",
    "%",
    f"the same with statistics and their telemetry every {EVERY} steps",
    at_most=1,
)
def telemetry_overhead(bench: Bench) -> Estimate:
    """Dormant and sampled, in the proportion of a run, against plain."""
    found = bench.once(steps)
    return overhead(((EVERY - 1) * found["dormant"] + found["sampled"]) / EVERY, found["plain"])


@figure(
    "health_signal",
    "ms",
    "statistics and health signals of one sampled step, a layer of 4 seeds",
    at_most=1,
)
def health_signal(bench: Bench) -> Estimate:
    """Sampled less dormant, a layer."""
    found = bench.once(steps)
    return difference(found["sampled"], found["dormant"]).scaled(1e3 / LAYERS)


def _grafted(kernels: int) -> SeededLayer:
    """MNIST-1D's first layer with so many live conv1d kernels."""
    layer = nn.Linear(40, 100)
    growing = GrowingModel(germinate(nn.Sequential(layer)), training=KernelTraining())
    for seed in range(kernels):
        ir = generate(
            in_features=40, out_features=25, family="conv1d", budget=Budget.of(20_000), seed=seed
        )
        assert ir is not None  # noqa: S101  # the family fits this shape
        slot = Slot(
            str(seed), ir.family, module_of(ir), ir.blend, ir.tap, ir.alpha_target, live=True
        )
        growing.graft(("0", seed), slot)
        slot.alpha.fill_(0.5)
    return growing.layers["0"]


def forwards(bench: Bench) -> dict[str, Samples]:
    """Seconds of a forward of MNIST-1D's first layer, 100 samples, with 0, 1 and 4 live kernels."""
    torch.set_num_threads(1)
    inputs = torch.randn(100, 40)
    layers = {str(count): _grafted(count) for count in (0, 1, 4)}
    return in_turns(
        bench, {name: partial(layer, inputs) for name, layer in layers.items()}, _FORWARDS
    )


@figure(
    "one_active_kernel",
    "ms",
    "forward of a layer (40 to 100, batch 100) with one conv1d kernel, beyond the host",
    at_most=2,
)
def one_active_kernel(bench: Bench) -> Estimate:
    """One kernel less none."""
    found = bench.once(forwards)
    return difference(found["1"], found["0"]).scaled(1e3)


@figure("four_active_kernels", "ms", "the same with four", at_most=5)
def four_active_kernels(bench: Bench) -> Estimate:
    """Four kernels less none."""
    found = bench.once(forwards)
    return difference(found["4"], found["0"]).scaled(1e3)


@figure(
    "training_samples",
    "samples/s",
    "mnist1d's model in Tolaria's own step, dormant seeds",
    at_least=1000,
)
def training_samples(bench: Bench) -> Estimate:
    """Whole optimizer steps on made-up samples of mnist1d's shape: what they say changes no
    duration.
    """
    torch.set_num_threads(1)
    recipe = load("mnist1d")
    growing = GrowingModel(
        germinate(function(recipe.model, "model", OWNER)()), training=KernelTraining()
    )
    state, stepper = (
        started(growing, origin_of(bench)),
        Stepper(growing, recipe, 1000, Method(CLASSIFICATION)),
    )
    batch = (torch.randn(recipe.run.batch_size, 40), torch.randint(0, 10, (recipe.run.batch_size,)))
    seconds = [
        bench.seconds(partial(stepper.step, state, step, batch, sample=False))
        for step in range(_STEPS)
    ]
    return rate(recipe.run.batch_size, np.array(seconds[1:]))
