"""What a packet says, in the terms that the policy decides in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events import geometry
from esper.events.records import CatalogueEntry, LayerState, SeedState, Stage, SystemStatePacket
from esper.lifecycle import HOLDING
from esper.policies import CommonSettings

ACTIVE: frozenset[Stage] = HOLDING - {"FOSSILIZED"}
"""Stages in which a kernel is on trial."""


@dataclass(frozen=True, slots=True, order=True)
class ArmKey:
    """One choice within a run: a family of kernels on a layer."""

    layer: str
    family: str

    def __str__(self) -> str:
        """The key as text, as evidence shows it."""
        return f"{self.layer}|{self.family}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A seed of an arm that could be germinated now, and the kernels that fit it, sorted by id."""

    key: ArmKey
    layer: LayerState
    seed: SeedState
    kernels: tuple[CatalogueEntry, ...]


def width_class(features: int) -> str:
    """Powers of two: a layer of 100 features is of the class of 128."""
    # less one, so that a layer of exactly 128 features is of the class of 128
    return str(1 << max(features - 1, 0).bit_length())


def context(layer: LayerState, family: str) -> str:
    """The context in which experience is carried from run to run: kind of layer, its width classes,
    family.
    """
    return (
        f"{layer.kind}/{width_class(layer.in_features)}x{width_class(layer.out_features)}/{family}"
    )


def seeds(packet: SystemStatePacket) -> dict[tuple[str, int], SeedState]:
    """Every seed of the packet by layer and index."""
    return {(layer.name, seed.seed): seed for layer in packet.layers for seed in layer.seeds}


def fits(kernel: CatalogueEntry, layer: LayerState, seed: SeedState) -> bool:
    """Whether the kernel reads what the seed can give it and writes the seed's chunk, at the
    layer's positions.
    """
    reads = layer.in_features if kernel.tap == "LAYER_INPUT" else seed.chunk_size
    shaped = kernel.in_features == reads and kernel.out_features == seed.chunk_size
    return shaped and geometry.fits(kernel.geometry, kernel.tap, layer.geometry)


def allowed(packet: SystemStatePacket, settings: CommonSettings) -> tuple[CatalogueEntry, ...]:
    """Kernels of the catalogue within the budget and of the wanted families."""
    return tuple(
        kernel
        for kernel in packet.catalogue
        if kernel.parameters <= settings.parameter_budget
        and (not settings.families or kernel.family in settings.families)
    )


def choices(
    packet: SystemStatePacket, settings: CommonSettings, taken: frozenset[tuple[str, int]]
) -> dict[ArmKey, tuple[Choice, ...]]:
    """For each arm the seeds that could be germinated, in the order of the layer: DORMANT, not
    `taken`, with a fitting kernel.
    """
    by_arm: dict[ArmKey, list[Choice]] = {}
    kernels = allowed(packet, settings)
    for layer in packet.layers:
        for seed in layer.seeds:
            if seed.stage != "DORMANT" or (layer.name, seed.seed) in taken:
                continue
            families: dict[str, list[CatalogueEntry]] = {}
            for kernel in kernels:
                if fits(kernel, layer, seed):
                    families.setdefault(kernel.family, []).append(kernel)
            for family, fitting in families.items():
                key = ArmKey(layer.name, family)
                # the catalogue's order may depend on when kernels came; the draws must not
                ordered = tuple(sorted(fitting, key=lambda kernel: kernel.kernel_id))
                by_arm.setdefault(key, []).append(Choice(key, layer, seed, ordered))
    return {key: tuple(by_arm[key]) for key in sorted(by_arm)}


def lacking(packet: SystemStatePacket, settings: CommonSettings) -> tuple[str, ...]:
    """Layers with a seed that no kernel of the catalogue fits, in the packet's order."""
    kernels = allowed(packet, settings)
    return tuple(
        layer.name
        for layer in packet.layers
        if any(
            seed.stage != "TERMINATED" and not any(fits(kernel, layer, seed) for kernel in kernels)
            for seed in layer.seeds
        )
    )


def epochs_left(packet: SystemStatePacket) -> float:
    """Epochs until the end of the schedule.

    Infinite before the first epoch, which tells how many steps one has.
    """
    if packet.epoch == 0 or packet.step == 0:
        return float("inf")
    # steps left, over steps an epoch so far: a packet does not say how many steps an epoch has
    return (packet.total_steps - packet.step) * packet.epoch / packet.step


def relative(loss_gap: float, packet: SystemStatePacket) -> float:
    """A gap of the loss as a fraction of the validation loss."""
    return loss_gap / packet.validation_loss if packet.validation_loss > 0 else 0.0
