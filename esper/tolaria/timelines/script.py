"""The script of an open loop: what came from outside in a record, as commands at their steps,
without a decision and what it caused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.events import JournalEvent
from esper.events.records import AdaptationApplied, KernelFailed, SeedTransitioned
from esper.lifecycle.commands import Adapt, Move, ReportFailure, Source
from esper.tolaria.replay.reexecution import Scripted


@dataclass(frozen=True, slots=True)
class ScriptLine:
    """A command of a script at a step, and the event of the record that it comes from."""

    step: int
    command: Scripted
    event: JournalEvent

    def sentence(self) -> str:
        """The line for people."""
        command = self.command
        place = f"{command.layer}[{command.seed}]"
        if isinstance(command, Adapt):
            return (
                f"{command.command} {f'{command.family} ' if command.family else ''}at "
                f"{place}, epoch {self.event.epoch}, step {self.step}"
            )
        arrived = (
            "arrival of the kernel" if isinstance(command, Move) else "failed load of the kernel"
        )
        return f"{arrived} at {place}, epoch {self.event.epoch}, step {self.step}"


def script_of(events: Sequence[JournalEvent]) -> list[ScriptLine]:
    """What came from outside in a part of one timeline: decisions that were applied, kernels that
    arrived or could not be loaded.

    Pauses, snapshots and dropped telemetry do not change what is computed; failures of running
    kernels are found anew.
    """
    # AdaptationApplied lacks the blueprint's weight; the transition that it caused has it
    targets = {
        event.causation_id: event.alpha_target
        for event in events
        if isinstance(event, SeedTransitioned) and event.causation_id
    }
    lines: list[ScriptLine] = []
    for event in events:
        if isinstance(event, AdaptationApplied):
            lines.append(
                ScriptLine(event.step, _adapt(event, targets.get(event.event_id, 0.0)), event)
            )
        elif isinstance(event, SeedTransitioned) and event.to_stage == "TRAINING":
            lines.append(
                ScriptLine(
                    event.step,
                    Move(
                        layer=event.layer, seed=event.seed, to_stage="TRAINING", reason=event.reason
                    ),
                    event,
                )
            )
        elif isinstance(event, KernelFailed) and event.phase == "LOAD":
            lines.append(
                ScriptLine(
                    event.step,
                    ReportFailure(
                        layer=event.layer, seed=event.seed, phase="LOAD", error=event.error
                    ),
                    event,
                )
            )
    return lines


def without(
    lines: Sequence[ScriptLine], events: Sequence[JournalEvent], decision: AdaptationApplied
) -> tuple[list[ScriptLine], list[ScriptLine]]:
    """The script without a decision and what it caused, and what was dropped: the decision first.

    Dropped is everything for the same seed behind the decision until that seed is DORMANT again in
    the record: the arrival of its kernel, and each later command for it (ADVANCE, SET_ALPHA, CULL,
    FOSSILISE, RESET). What other seeds were told stays, even if Tamiyo would have told them
    something else: that is what the closed loop asks.
    """
    place = (decision.layer, decision.seed)
    end = next(
        (
            event.sequence
            for event in events
            if isinstance(event, SeedTransitioned)
            and event.sequence > decision.sequence
            and (event.layer, event.seed) == place
            and event.to_stage == "DORMANT"
        ),
        None,
    )
    dropped = [
        line
        for line in lines
        if line.event.sequence >= decision.sequence
        and (end is None or line.event.sequence <= end)
        and (line.command.layer, line.command.seed) == place
    ]
    return [line for line in lines if line not in dropped], dropped


def _adapt(event: AdaptationApplied, target: float) -> Adapt:
    """The command again.

    Guardrails have let it through once: it is only held against the stage of its seed.
    """
    return Adapt(
        source=Source(event.command_id),
        decision_id=event.decision_id,
        command=event.command,
        layer=event.layer,
        seed=event.seed,
        kernel_id=event.kernel_id,
        family=event.family,
        alpha=event.alpha,
        alpha_target=target,
        confidence=event.confidence,
        urgency=event.urgency,
        trusted=True,
    )
