"""A pure stand-in for the trainer in tests of the policy: seeds that go through the stages,
families whose true worth is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from esper.clock import ManualClock
from esper.events import Message, Origin, decode
from esper.events.records import (
    AdaptationOutcome,
    Blend,
    CatalogueEntry,
    EpochReviewed,
    LayerState,
    ReviewedCommand,
    SeedState,
    SystemStatePacket,
    Tap,
)
from esper_processors.tamiyo.answers import Reply, answer
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.row import Row

STEPS = 40
"""Optimizer steps an epoch."""


@dataclass(frozen=True)
class Family:
    """A blueprint family on a layer: the gap that its kernels reach once trained, as a fraction of
    the validation loss.
    """

    name: str
    gap: float
    tap: Tap = "LAYER_INPUT"
    blend: Blend = "RESIDUAL"


def seed_state(index: int, **changed: Any) -> SeedState:
    """A dormant seed with a chunk of 25 features."""
    seed = SeedState(
        seed=index,
        chunk_start=25 * index,
        chunk_size=25,
        stage="DORMANT",
        execution="DORMANT",
        kernel_id="",
        family="",
        decision_id="",
        alpha=0.0,
        stage_epoch=0,
        trained_steps=0,
        shadow_gap=0.0,
        shadow_gap_error=0.0,
        dependence=0.0,
        health=1.0,
    )
    return replace(seed, **changed)


def layer_state(name: str, in_features: int, seeds: tuple[SeedState, ...]) -> LayerState:
    """A Linear layer of 100 output features."""
    return LayerState(
        name=name,
        kind="Linear",
        in_features=in_features,
        out_features=100,
        gradient_norm=1.0,
        activation_variance=1.0,
        dead_ratio=0.0,
        seeds=seeds,
    )


def kernel(
    layer: str, in_features: int, family: Family, *, parameters: int = 5000
) -> CatalogueEntry:
    """A kernel of a family that fits the layer's chunks."""
    return CatalogueEntry(
        kernel_id=f"{family.name}-{layer}",
        blueprint_id=f"blueprint-{family.name}-{layer}",
        family=family.name,
        in_features=in_features if family.tap == "LAYER_INPUT" else 25,
        out_features=25,
        tap=family.tap,
        blend=family.blend,
        parameters=parameters,
        flops=2 * parameters,
    )


@dataclass
class World:
    """Layers by name with their input width, what each family is worth on each, and the seeds'
    stages as the packets show them.
    """

    layers: dict[str, int]
    worth: Mapping[str, tuple[Family, ...]]
    run_id: str = "run"
    run_seed: int = 0
    decisions: Literal["LIVE", "LOCKSTEP"] = "LOCKSTEP"
    policy: dict[str, Any] = field(default_factory=dict)
    epochs: int = 120
    epoch: int = 0
    timeline: int = 0
    loss: float = 1.2
    with_catalogue: bool = True
    seeds: dict[str, list[SeedState]] = field(default_factory=dict)
    row: Row = field(default_factory=Row)
    clock: ManualClock = field(default_factory=ManualClock)
    answers: list[EpochReviewed] = field(default_factory=list)
    outcomes: list[AdaptationOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with four dormant seeds a layer."""
        self.seeds = self.seeds or {
            name: [seed_state(index) for index in range(4)] for name in self.layers
        }

    def packet(self) -> SystemStatePacket:
        """The packet of the present epoch."""
        origin = Origin(self.run_id, "trainer", "0" * 32, self.clock)
        catalogue = [
            kernel(name, width, family)
            for name, width in self.layers.items()
            for family in self.worth[name]
        ]
        return SystemStatePacket(
            **origin.envelope(f"packet/{self.epoch}", timeline=self.timeline),
            timeline=self.timeline,
            packet=self.epoch,
            epoch=self.epoch,
            step=self.epoch * STEPS,
            total_steps=self.epochs * STEPS,
            run_seed=self.run_seed,
            decisions=self.decisions,
            train_loss=self.loss,
            train_accuracy=0.5,
            validation_loss=self.loss,
            validation_accuracy=0.5,
            learning_rate=1e-3,
            gradient_norm=1.0,
            layers=tuple(
                layer_state(name, width, tuple(self.seeds[name]))
                for name, width in self.layers.items()
            ),
            catalogue=tuple(sorted(catalogue, key=lambda entry: entry.kernel_id))
            if self.with_catalogue
            else (),
            policy=json.dumps(self.policy),
        )

    def ask(self, packet: SystemStatePacket | None = None) -> Reply:
        """Tamiyo's reply to a packet, with its row kept."""
        reply = answer(
            self.row,
            packet or self.packet(),
            prior=lambda _context, _packet: Beta(),
            clock=self.clock,
        )
        self.row = reply.row or self.row
        return reply

    def turn(self) -> EpochReviewed:
        """Ask, do as told, and train an epoch."""
        return self.turn_with(self.ask().messages)

    def turn_with(self, messages: Sequence[Message]) -> EpochReviewed:
        """Do as these messages say, and train an epoch."""
        review: EpochReviewed | None = None
        for message in messages:
            event = decode(message.value)
            if isinstance(event, EpochReviewed):
                review = event
            elif isinstance(event, AdaptationOutcome):
                self.outcomes.append(event)
        assert review is not None
        self.answers.append(review)
        for command in review.commands:
            self._obey(command)
        self._train()
        self.epoch += 1
        self.clock.advance(1.0)
        return review

    def _obey(self, command: ReviewedCommand) -> None:
        seeds = self.seeds[command.layer]
        seed = seeds[command.seed]
        if command.command == "GERMINATE":
            assert seed.stage == "DORMANT"
            changed: dict[str, Any] = {
                "kernel_id": command.kernel_id,
                "family": command.family,
                "decision_id": command.decision_id,
            }
            seeds[command.seed] = replace(
                seed, stage="TRAINING", stage_epoch=self.epoch, trained_steps=0, **changed
            )
        elif command.command == "FOSSILISE":
            assert seed.stage == "PROBATIONARY"
            seeds[command.seed] = replace(seed, stage="FOSSILIZED", stage_epoch=self.epoch)
        elif command.command == "CULL":
            seeds[command.seed] = replace(seed, stage="CULLED", stage_epoch=self.epoch)

    def _train(self) -> None:
        for name, seeds in self.seeds.items():
            worth = {family.name: family.gap for family in self.worth[name]}
            for index, seed in enumerate(seeds):
                seeds[index] = self._next(seed, worth.get(seed.family, 0.0))

    def _next(self, seed: SeedState, worth: float) -> SeedState:
        now, rested = self.epoch + 1, self.epoch + 1 - seed.stage_epoch
        if seed.stage == "TRAINING":
            steps = seed.trained_steps + STEPS
            seed = replace(
                seed,
                trained_steps=steps,
                shadow_gap=worth * self.loss * min(1.0, steps / 160),
                shadow_gap_error=0.02,
            )
            if steps >= 150 and seed.shadow_gap > 2 * seed.shadow_gap_error:
                return replace(seed, stage="BLENDING", stage_epoch=now)
            return replace(seed, stage="CULLED", stage_epoch=now) if steps >= 300 else seed
        if seed.stage == "BLENDING" and rested >= 4:
            return replace(seed, stage="SHADOWING", stage_epoch=now, alpha=1.0)
        if seed.stage == "SHADOWING":
            seed = replace(seed, dependence=worth)
            return replace(seed, stage="PROBATIONARY", stage_epoch=now) if rested >= 2 else seed
        if seed.stage == "CULLED":
            return replace(seed, stage="EMBARGOED", stage_epoch=now, kernel_id="", family="")
        if seed.stage == "EMBARGOED" and rested >= 3:
            return seed_state(seed.seed)
        return seed
