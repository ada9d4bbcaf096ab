"""What growth costs a step of a user's own loop, beside the same loop without it, in processor time
of the training thread: `growth.loss`, `backward` and `growth.step`, with everything they tell.

The run is a whole one on the bus in memory, so that no broker works on the same cores.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from esper.bench.estimate import Estimate, Samples, difference, median, overhead
from esper.bench.figure_registry import Bench, figure
from esper.bench.steps import in_turns
from esper.config import Settings
from esper.errors import UnavailableError
from esper.events.geometry import parse
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.kasmina import Slot, germinate
from esper.kernels.build import module_of
from esper.oona.bus.memory import MemoryBus
from esper.oona.durable.outbox import Outbox
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop, begin
from esper.tolaria.run.wiring import RunContext
from esper.tolaria.session.progress import Progress

KERNELS = 4
_ROUNDS = 60
_LARGE_ROUNDS = 12
_STEPS = 1_000_000  # of the schedule: no end comes in sight
_RATE = 0.01


@dataclass(frozen=True)
class _Work:
    """A model of class logits, how it is optimised, and a batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: torch.Tensor
    labels: torch.Tensor

    def step(self) -> None:
        """As a loop without growth has it."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.inputs), self.labels).backward()
        self.optimizer.step()

    def growing_step(self, growth: Growth) -> None:
        """As a loop with growth has it."""
        self.optimizer.zero_grad()
        growth.loss(self.inputs, self.labels).backward()
        growth.step()
        self.optimizer.step()


def _small() -> _Work:
    """A step of about 2 ms: three Linear layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    return _work(model, torch.randn(256, 256))


def _resnet18() -> _Work:
    """ResNet-18 on images of 64 by 64."""
    try:
        from torchvision.models import resnet18  # noqa: PLC0415  # no part of Esper needs it
    except ImportError as error:
        raise UnavailableError(
            "This figure is measured on torchvision's ResNet-18: `pip install torchvision`."
        ) from error
    torch.manual_seed(0)
    return _work(resnet18(num_classes=10), torch.randn(8, 3, 64, 64))


def _work(model: nn.Module, inputs: torch.Tensor) -> _Work:
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    return _Work(model, optimizer, inputs, torch.randint(0, 10, (len(inputs),)))


def _grown(bench: Bench, name: str, work: _Work) -> Growth:
    """A run around a model, its seeds dormant, without Tamiyo."""
    germinate(work.model)
    settings = Settings(home=bench.folder / "own-loops")
    outbox = Outbox.open(settings.runs_dir / name / "outbox", clock=bench.clock)
    bench.held.callback(outbox.close)
    progress = Progress(Console(file=io.StringIO()))
    bus = MemoryBus(clock=bench.clock)
    asked = OwnLoop(
        work.model,
        work.optimizer,
        (work.inputs, work.labels),
        steps=_STEPS,
        seed=0,
        task="classification",
        settings={"tamiyo": {"enabled": False}},
        accumulate=1,
    )
    place = RunContext(settings, name, bus, outbox, bench.clock, progress)
    return begin(asked, place, bench.held)


def _enliven(growth: Growth, layer: str) -> None:
    """Let every seed of a layer have a live kernel, as in BLENDING's half."""
    session = growth.rigged.session
    growing = session.parts.growing
    seeds = list(session.state.seeds)
    for index, seed in enumerate(seeds):
        if seed.layer != layer:
            continue
        place = (seed.layer, seed.seed)
        reads, width, geometry = growing.shapes()[place]
        ir = generate(
            in_features=reads,
            out_features=width,
            family="mlp",
            budget=Budget.of(20_000),
            seed=index,
            geometry=parse(geometry),
        )
        assert ir is not None  # noqa: S101  # the family fits this shape
        slot = Slot(ir.blueprint_id, ir.family, module_of(ir), ir.blend, ir.tap, ir.alpha_target)
        growing.graft(place, slot)
        seeds[index] = seed.changed(
            stage="PROBATIONARY", kernel_id=ir.blueprint_id, family=ir.family, alpha_target=0.5
        )
    session.parts.journal.state = replace(session.state, seeds=tuple(seeds))
    growing.follow(session.state, growth.steps)


def _small_steps(bench: Bench) -> dict[str, Samples]:
    """Seconds of a small step: plain, plain again, with dormant seeds, with live kernels."""
    torch.set_num_threads(1)
    works = {name: _small() for name in ("plain", "again", "dormant", "live")}
    calls: dict[str, Callable[[], object]] = {
        "plain": works["plain"].step,
        "again": works["again"].step,
    }
    for name in ("dormant", "live"):
        growth = _grown(bench, f"small-{name}", works[name])
        works[name].growing_step(growth)  # its journal begins
        if name == "live":
            _enliven(growth, "2")
        calls[name] = partial(works[name].growing_step, growth)
    return in_turns(bench, calls, _ROUNDS)


def _large_steps(bench: Bench) -> dict[str, Samples]:
    """Seconds of a step of ResNet-18: plain, with dormant seeds."""
    torch.set_num_threads(1)
    plain, dormant = _resnet18(), _resnet18()
    growth = _grown(bench, "resnet18", dormant)
    calls: dict[str, Callable[[], object]] = {
        "plain": plain.step,
        "dormant": partial(dormant.growing_step, growth),
    }
    return in_turns(bench, calls, _LARGE_ROUNDS)


@figure(
    "own_loop_dormant",
    "us",
    "a step of a user's own loop of about 2 ms, with dormant seeds, beyond the plain loop's",
    at_most=50,
)
def own_loop_dormant(bench: Bench) -> Estimate:
    """Dormant less plain."""
    found = bench.once(_small_steps)
    return difference(found["dormant"], found["plain"]).scaled(1e6)


@figure("own_loop_noise", "us", "the same of two plain loops: nothing below it can be told")
def own_loop_noise(bench: Bench) -> Estimate:
    """Plain less plain."""
    found = bench.once(_small_steps)
    return difference(found["again"], found["plain"]).scaled(1e6)


@figure(
    "own_loop_live",
    "times",
    f"the same step with {KERNELS} live kernels in one of its layers, over the plain loop's",
    at_most=2,
)
def own_loop_live(bench: Bench) -> Estimate:
    """Live over plain."""
    found = bench.once(_small_steps)
    return median(found["live"] / found["plain"])


@figure(
    "own_loop_resnet18",
    "%",
    "a step of ResNet-18 in a user's own loop, with dormant seeds, beside the plain loop's",
    at_most=1,
)
def own_loop_resnet18(bench: Bench) -> Estimate:
    """Dormant against plain."""
    found = bench.once(_large_steps)
    return overhead(found["dormant"], found["plain"])
