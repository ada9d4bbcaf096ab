"""From what the inbox delivers to commands of the run: Tamiyo's answers, and what people and services ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from esper.events.records import EpochReviewed, KernelPublished, PauseRequested, ResumeRequested, SeedCommand
from esper.kasmina.growth import Place
from esper.lifecycle.commands import Adapt, Pause, Resume, RunCommand, Source
from esper.oona.inbox import Delivered
from esper.urza.catalogue import compatible

ALPHA_TARGETS = {"RESIDUAL": 0.3, "LERP": 1.0}
"""Blending weight that a kernel ramps to when neither command nor blueprint says another (DESIGN: Kasmina)."""


@dataclass(frozen=True, slots=True)
class Vetting:
    """What a command is held against before the lifecycle sees it: known kernels by id, and (inputs, chunk width) of each seed."""

    kernels: Mapping[str, KernelPublished]
    shapes: Mapping[Place, tuple[int, int]]

    def refusal(self, command: str, place: Place, kernel_id: str) -> str:
        """Why the kernel cannot be grafted there, in a sentence; empty when it can, or none is asked for."""
        if command != "GERMINATE":
            return ""
        kernel, shape = self.kernels.get(kernel_id), self.shapes.get(place)
        if kernel is None:
            return f"Kernel {kernel_id[:12] or '(none)'} is not in the catalogue of this run."
        if shape is None:
            return f"There is no seed {place[0]}[{place[1]}] in this run."
        if not compatible([kernel], in_features=shape[0], chunk_width=shape[1]):
            fit = f"this seed needs {shape[0] if kernel.tap == 'LAYER_INPUT' else shape[1]} and {shape[1]}"
            return f"Kernel {kernel_id[:12]} reads {kernel.in_features} features and writes {kernel.out_features}; {fit}."
        return ""

    def target(self, kernel_id: str) -> float:
        """Blending weight that a kernel ramps to by default."""
        kernel = self.kernels.get(kernel_id)
        return ALPHA_TARGETS[kernel.blend] if kernel else 0.0


def commands_of(delivered: Delivered, *, vetting: Vetting, incarnation: int) -> Iterator[RunCommand]:
    """The commands in one delivered message, in their order; none for messages that only inform."""
    event = delivered.event
    if isinstance(event, EpochReviewed):
        for one in event.commands:
            source = Source(one.decision_id, *delivered.position)
            yield Adapt(
                source=source,
                decision_id=one.decision_id,
                command=one.command,
                layer=one.layer,
                seed=one.seed,
                kernel_id=one.kernel_id,
                family=one.family,
                alpha=one.alpha,
                alpha_target=vetting.target(one.kernel_id),
                confidence=one.confidence,
                urgency=one.urgency,
                refusal=vetting.refusal(one.command, (one.layer, one.seed), one.kernel_id),
                causation_id=event.event_id,
            )
        return
    source = Source(event.event_id, *delivered.position)
    if isinstance(event, SeedCommand):
        kernel = vetting.kernels.get(event.kernel_id)
        yield Adapt(
            source=source,
            decision_id=event.event_id,
            command=event.command,
            layer=event.layer,
            seed=event.seed,
            kernel_id=event.kernel_id,
            family=kernel.family if kernel else "",
            alpha=event.alpha,
            alpha_target=vetting.target(event.kernel_id),
            trusted=True,
            refusal=vetting.refusal(event.command, (event.layer, event.seed), event.kernel_id),
            causation_id=event.event_id,
        )
    elif isinstance(event, PauseRequested):
        yield Pause(reason=event.reason, source=source)
    elif isinstance(event, ResumeRequested):
        yield Resume(reason=event.reason, source=source, incarnation=incarnation)
