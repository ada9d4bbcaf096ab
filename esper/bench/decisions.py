"""Tamiyo's decisions, without Kafka, in processor time: packets of mnist1d's model, a catalogue of
every family, an epoch each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from esper.bench.estimate import Estimate, Samples, p99
from esper.bench.figure_registry import Bench, figure
from esper.bench.kernels import shelf
from esper.bench.steps import origin_of, started
from esper.events.records import SystemStatePacket
from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.tolaria.exchange.packet import EpochFigures, build
from esper.tolaria.recipes.recipe import OWNER, function, load
from esper_processors.tamiyo import answers
from esper_processors.tamiyo.deciding import bandits
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.plan import uniform
from esper_processors.tamiyo.deciding.policies import parse
from esper_processors.tamiyo.deciding.policy_state import observe
from esper_processors.tamiyo.row import Row

_EPOCHS = 200


def packets(bench: Bench) -> list[SystemStatePacket]:
    """One packet for each epoch of a run whose kernels never come: the bandit chooses
    every time.
    """
    recipe = load("mnist1d")
    growing = GrowingModel(
        germinate(function(recipe.model, "model", OWNER)(), seeds=recipe.kasmina.seeds),
        training=KernelTraining(),
    )
    origin = origin_of(bench)
    state = replace(started(growing, origin), timeline=0)
    return [
        build(
            origin=origin,
            state=replace(state, epoch=epoch, step=epoch * 40),
            growing=growing,
            recipe=recipe,
            figures=EpochFigures(1.2, 0.5, 1.2, 0.5, 1e-3, 1.0),
            evidence={},
            statistics=growing.read_statistics(),
            kernels=bench.once(shelf).kernels,
            total_steps=_EPOCHS * 40,
        )
        for epoch in range(_EPOCHS)
    ]


@dataclass(frozen=True)
class _Seconds:
    whole: Samples
    choice: Samples


def seconds(bench: Bench) -> _Seconds:
    """Seconds from a packet to the answer's messages, and of the choice of seeds and kernels alone,
    for each epoch.
    """
    row, whole, choice = Row(), [], []
    for packet in packets(bench):
        policy, settings = parse(packet.policy)
        state, _ = observe(row.state, packet)
        generator = bandits.generator(packet.run_seed, packet.epoch, settings.version)
        choice.append(
            bench.processor_seconds(
                lambda: policy.decide(state, packet, settings, uniform, generator)  # noqa: B023  # called here
            )
        )
        replies: list[answers.Reply] = []
        ask = partial(
            answers.answer, row, packet, prior=lambda _context, _packet: Beta(), clock=bench.clock
        )
        whole.append(bench.processor_seconds(lambda: replies.append(ask())))  # noqa: B023  # called here
        row = replies[0].row or row
    return _Seconds(np.array(whole), np.array(choice))


@figure(
    "decision",
    "ms",
    "from a packet to the answer's messages, policy and codec without Kafka, p99",
    at_most=100,
)
def decision(bench: Bench) -> Estimate:
    """Over the epochs of a run."""
    return p99(bench.once(seconds).whole).scaled(1e3)


@figure("seed_selection", "ms", "the choice of seeds and kernels alone, p99", at_most=1)
def seed_selection(bench: Bench) -> Estimate:
    """The policy without observing, codec and bookkeeping."""
    return p99(bench.once(seconds).choice).scaled(1e3)
