"""From what the inbox delivers to commands of the run: Tamiyo's answers, and what people and
services ask.
"""

from __future__ import annotations

from collections.abc import Iterator

from esper.events.records import EpochReviewed, PauseRequested, ResumeRequested, SeedCommand
from esper.kasmina.vetting import Vetting
from esper.lifecycle.commands import Adapt, Pause, Resume, RunCommand, Source
from esper.oona.inbound.inbox import Delivered

__all__ = ["Vetting", "commands_of"]


def commands_of(
    delivered: Delivered, *, vetting: Vetting, incarnation: int
) -> Iterator[RunCommand]:
    """The commands in one delivered message, in their order; none for messages that only inform."""
    event = delivered.event
    if isinstance(event, EpochReviewed):
        for decision in event.commands:
            # the decision's id: one answer has several commands, each to be applied once
            source = Source(decision.decision_id, *delivered.position)
            yield Adapt(
                source=source,
                decision_id=decision.decision_id,
                command=decision.command,
                layer=decision.layer,
                seed=decision.seed,
                kernel_id=decision.kernel_id,
                family=decision.family,
                alpha=decision.alpha,
                alpha_target=vetting.target(decision.kernel_id),
                confidence=decision.confidence,
                urgency=decision.urgency,
                refusal=vetting.refusal(
                    decision.command, (decision.layer, decision.seed), decision.kernel_id
                ),
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
