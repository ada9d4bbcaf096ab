"""What Nissa keeps of a run: facts of its journal, its packets and Tamiyo's answers, folded in any
number of repetitions. Pure.

Each fold knows by itself what it has seen (the journal's sequence, the packet's number), so that a
message that comes twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import singledispatch
from typing import Any

from esper.events import Event, JournalEvent
from esper.events.records import (
    AdaptationApplied,
    AdaptationOutcome,
    AdaptationRejected,
    CheckpointTaken,
    EpochReviewed,
    KernelFailed,
    RunRolledBack,
    SeedTransitioned,
    SystemStatePacket,
    TelemetryLost,
)
from esper.lifecycle import overview
from esper.lifecycle.overview import RunOverview

Counts = dict[str, int]
"""How often, by kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView(RunOverview):
    """The run's overview, and what Nissa counts of it.

    `packet` and `reviewed` are timeline and number of the last packet and of the last one that
    Tamiyo answered. `checkpoint_step` is the step of the newest snapshot that the present timeline
    can go back to; the bytes are those that the store was given for all of them.
    """

    partition: int = 0
    packet: tuple[int, int] = (0, -1)
    reviewed: tuple[int, int] = (0, -1)
    adaptations: Counts = field(default_factory=dict)
    rejections: Counts = field(default_factory=dict)
    transitions: Counts = field(default_factory=dict)
    failures: int = 0
    lost: int = 0
    reviews: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    last_decision: dict[str, Any] = field(default_factory=dict)
    checkpoints: int = 0
    checkpoint_step: int | None = None
    checkpoint_bytes: int = 0
    checkpoint_stall_us: int = 0


def encode(view: RunView) -> bytes:
    """The view's bytes for the table."""
    return json.dumps(asdict(view), separators=(",", ":")).encode()


def decode(data: bytes) -> RunView:
    """The view in `data`.

    Fields that a later version added have their defaults, those that it dropped are ignored.
    """
    fields = RunView.__dataclass_fields__
    plain = {name: value for name, value in json.loads(data).items() if name in fields}
    return RunView(
        **{**plain, "packet": tuple(plain["packet"]), "reviewed": tuple(plain["reviewed"])}
    )


def fold(view: RunView, event: Event) -> RunView:
    """The view after an event of its run.

    The same view when the event changes nothing or was folded before.
    """
    at = overview.fold(view, event)
    # the overview knows by the sequence that it has seen this; other events know by their own
    # number
    if at is view and isinstance(event, JournalEvent):
        return view
    folded = _fold(event, at)
    return (
        folded
        if folded is view
        # the later of both: a replayed topic must not make an active run look old
        else replace(folded, updated_at=max(view.updated_at, event.occurred_at))
    )


@singledispatch
def _fold(event: Event, view: RunView) -> RunView:
    """Events without a meaning here."""
    del event
    return view


@_fold.register
def _(event: SeedTransitioned, view: RunView) -> RunView:
    return replace(view, transitions=_more(view.transitions, event.to_stage))


@_fold.register
def _(event: AdaptationApplied, view: RunView) -> RunView:
    return replace(view, adaptations=_more(view.adaptations, event.command))


@_fold.register
def _(event: AdaptationRejected, view: RunView) -> RunView:
    return replace(view, rejections=_more(view.rejections, event.command))


@_fold.register
def _(event: KernelFailed, view: RunView) -> RunView:
    del event
    return replace(view, failures=view.failures + 1)


@_fold.register
def _(event: CheckpointTaken, view: RunView) -> RunView:
    return replace(
        view,
        checkpoints=view.checkpoints + 1,
        checkpoint_step=event.at_step,
        checkpoint_bytes=view.checkpoint_bytes + event.stored_bytes,
        checkpoint_stall_us=event.stall_us,
    )


@_fold.register
def _(event: RunRolledBack, view: RunView) -> RunView:
    return replace(view, checkpoint_step=event.step)


@_fold.register
def _(event: TelemetryLost, view: RunView) -> RunView:
    return replace(view, lost=view.lost + event.lost)


@_fold.register
def _(event: SystemStatePacket, view: RunView) -> RunView:
    at = (event.timeline, event.packet)
    return replace(view, packet=at, total_steps=event.total_steps) if at > view.packet else view


@_fold.register
def _(event: EpochReviewed, view: RunView) -> RunView:
    at = (event.timeline, event.packet)
    if at <= view.reviewed:
        return view
    view = replace(view, reviewed=at, reviews=view.reviews + 1)
    if not event.commands:
        return view
    decision = {
        "epoch": event.epoch,
        "reason": event.reason,
        "commands": [
            {
                "decision_id": each.decision_id,
                "command": each.command,
                "layer": each.layer,
                "seed": each.seed,
                "family": each.family,
            }
            for each in event.commands
        ],
    }
    return replace(view, last_decision=decision)


@_fold.register
def _(event: AdaptationOutcome, view: RunView) -> RunView:
    if event.decision_id in view.outcomes:
        return view
    return replace(view, outcomes={**view.outcomes, event.decision_id: event.verdict})


def _more(counts: Mapping[str, int], kind: str) -> Counts:
    return {**counts, kind: counts.get(kind, 0) + 1}
