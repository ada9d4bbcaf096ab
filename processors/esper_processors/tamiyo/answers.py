"""From a packet and a run's row to the answer and the next row.

No I/O: the clock and the experience of other runs are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from esper.clock import Clock
from esper.errors import PoisonError, UsageError, printable
from esper.events import Event, Message, Origin
from esper.events.codec import decode as decode_event
from esper.events.codec import encode as encode_event
from esper.events.records import (
    AdaptationOutcome,
    EpochReviewed,
    FieldReport,
    ReportedLayer,
    RollbackRequested,
    SystemStatePacket,
)
from esper.policies import CommonSettings
from esper_processors.tamiyo.deciding import bandits
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.emergency import Alarm, watch
from esper_processors.tamiyo.deciding.features import lacking
from esper_processors.tamiyo.deciding.plan import Plan, Prior, require_plan, trials_of, uniform
from esper_processors.tamiyo.deciding.policies import Policy, parse
from esper_processors.tamiyo.deciding.policy_state import Ended, PolicyState, Trial, observe
from esper_processors.tamiyo.row import PacketAnswer, Row

SENDER = "tamiyo"
LIVE_EXPIRES_US = 60_000_000
"""An emergency that a live trainer has not heard of within this time is another one by now."""
LOCKSTEP_EXPIRES_US = 10 * 365 * 24 * 3_600_000_000
"""In lockstep the trainer waits for it, and a run that is resumed later asks again."""

PriorOf = Callable[[str, SystemStatePacket], Beta]
"""Experience of other runs with a context, at the time of a packet."""


class PolicyFault(PoisonError):  # noqa: N818  # whose it is matters, not that it is an error
    """What a policy has done wrong with one packet."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a packet leads to: the messages to send, the review first, and the row to write before,
    or None when it stays.

    `fault` is what the policy did wrong, where the answer is therefore without commands.
    """

    messages: tuple[Message, ...]
    row: Row | None
    fault: PolicyFault | None = None


def answer(
    row: Row,
    packet: SystemStatePacket,
    *,
    prior: PriorOf,
    clock: Clock,
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Reply:
    """Answer a packet; within `limit` the policy decides.

    One that was answered before gets the same messages again. One of an earlier timeline, or so old
    that its answer is not kept any more, gets none: its answer stands in the topic.
    """
    began = clock.monotonic()
    if packet.timeline < row.state.timeline:
        return Reply((), None)
    if packet.timeline == row.state.timeline and packet.packet <= row.state.packet:
        kept = row.answer(packet.packet)
        return Reply(
            # the bytes are those of the first time; headers are not kept, and are made of them anew
            tuple(encode_event(decode_event(value)) for value in kept.values) if kept else (),
            None,
        )
    first = row.state.packet < 0
    # before anything is decided, so that the policy sees what the packet itself has ended
    state, ended = observe(row.state, packet)
    alarm: Alarm | None = None
    fault: PolicyFault | None = None
    origin = Origin(packet.run_id, SENDER, packet.trace_id, clock)
    try:
        policy, settings = parse(packet.policy)
    except UsageError as error:
        settings = _none_given()
        plan = Plan((), str(error))
        report_layers: tuple[str, ...] = ()
    else:
        seen, alarm = watch(
            state.watch, packet, settings, rolled_back=packet.timeline > row.state.timeline
        )
        state = replace(state, watch=seen)
        # what an arm promises is a fraction of this loss: with NaN nothing can be compared
        if alarm is None and math.isfinite(packet.validation_loss):
            decide = partial(policy.decide, state, packet, settings, _prior(packet, prior))
            plan, fault = _decided(origin, policy, decide, packet, settings, limit)
        else:
            plan = Plan(
                (),
                alarm.reason
                if alarm
                else "The validation loss is not finite: nothing can be judged by it.",
            )
        # in an emergency too: kernels take time to make, and the run needs them once it is stable
        state, report_layers = wanted_layers(state, packet, settings, first=first)
    # the trial begins with the command: whether the trainer took it is seen in a later packet
    state = begun(state, trials_of(packet, plan.commands))
    back = [_rollback(origin, packet, alarm, clock.now_us())] if alarm else []
    duration_us = round((clock.monotonic() - began) * 1e6)
    events: list[Event] = [
        _review(
            origin,
            packet,
            settings,
            plan,
            duration_us,
            rollback_id=back[0].event_id if back else "",
        ),
        *back,
    ]
    if report_layers:
        events.append(_report(origin, packet, settings, report_layers, state.reports))
        # the number is part of the report's id: a packet answered again sends the same report
        state = replace(state, reports=state.reports + 1)
    events.extend(_outcome(origin, packet, end) for end in ended)
    messages = tuple(encode_event(event) for event in events)
    return Reply(
        messages,
        row.answered(
            state, PacketAnswer(packet.packet, tuple(message.value for message in messages))
        ),
        fault,
    )


def _decided(
    origin: Origin,
    policy: Policy,
    decide: Callable[[np.random.Generator], Plan],
    packet: SystemStatePacket,
    settings: CommonSettings,
    limit: Callable[[], AbstractContextManager[None]],
) -> tuple[Plan, PolicyFault | None]:
    """The plan of a policy; an empty one with the reason, and the fault, where it has none.

    Whatever a policy raises is a matter of this packet alone, as is a command that no consumer
    could decode, which would otherwise be refused by the trainer as poison.
    """
    # made here, so that the draws depend on nothing that was drawn before
    generator = bandits.generator(packet.run_seed, packet.epoch, settings.version)
    try:
        with limit():
            plan = require_plan(decide(generator), packet)
        decode_event(encode_event(_review(origin, packet, settings, plan, 0)).value)
    # SystemExit and KeyboardInterrupt too: they would end the worker for every run, and signals
    # reach its loop instead
    except BaseException as error:  # noqa: BLE001
        reason = (
            str(error) if isinstance(error, PoisonError) else f"{type(error).__name__}: {error}"
        )
        fault = PolicyFault(
            f"The policy {policy.name} decided nothing on this packet: {printable(reason[:400])}."
        )
        fault.__cause__ = error
        return Plan((), str(fault)), fault
    return plan, None


def _none_given() -> CommonSettings:
    """The settings of a recipe that sets nothing."""
    return parse("{}")[1]


def failed(packet: SystemStatePacket, error: Exception, *, clock: Clock) -> Message:
    """The answer to a packet on which Tamiyo itself failed: no commands, and the reason.

    It is not remembered: a mended Tamiyo answers anew.
    """
    origin = Origin(packet.run_id, SENDER, packet.trace_id, clock)
    reason = (
        f"Tamiyo failed on this packet, which is in dead.letters: {type(error).__name__}: {error}."
    )
    try:
        _, settings = parse(packet.policy)
    except UsageError:
        settings = _none_given()
    return encode_event(_review(origin, packet, settings, Plan((), reason), 0))


def _prior(packet: SystemStatePacket, prior: PriorOf) -> Prior:
    """Experience of other runs in live mode.

    In lockstep none, so that the same seed gives the same run.
    """
    return uniform if packet.decisions == "LOCKSTEP" else lambda context: prior(context, packet)


def wanted_layers(
    state: PolicyState, packet: SystemStatePacket, settings: CommonSettings, *, first: bool
) -> tuple[PolicyState, tuple[str, ...]]:
    """Layers to report now: all at a run's first packet, later those that lack kernels and were not
    reported since they had some.
    """
    without = lacking(packet, settings)
    if first:
        return replace(state, reported=without), tuple(layer.name for layer in packet.layers)
    # only these are remembered: a layer that got kernels and lacks them again is reported again
    outstanding = tuple(name for name in state.reported if name in without)
    new = tuple(name for name in without if name not in outstanding)
    return replace(state, reported=(*outstanding, *new)), new


def begun(state: PolicyState, trials: tuple[Trial, ...]) -> PolicyState:
    """The state with these trials on the way."""
    kernels, uses = dict(state.kernels), dict(state.uses)
    for trial in trials:
        kernels[trial.kernel_id] = kernels.get(trial.kernel_id, 0) + 1
        uses[trial.place] = uses.get(trial.place, 0) + 1
    return replace(
        state,
        trials={**state.trials, **{trial.decision_id: trial for trial in trials}},
        kernels=kernels,
        uses=uses,
    )


def _rollback(
    origin: Origin, packet: SystemStatePacket, alarm: Alarm, now_us: int
) -> RollbackRequested:
    lasting = LOCKSTEP_EXPIRES_US if packet.decisions == "LOCKSTEP" else LIVE_EXPIRES_US
    return RollbackRequested(
        **origin.envelope(
            f"emergency/{packet.packet}", timeline=packet.timeline, causation_id=packet.event_id
        ),
        snapshot_id="",
        at_most_epoch=alarm.epoch,
        reason=alarm.reason,
        expires_at=now_us + lasting,
    )


def _review(
    origin: Origin,
    packet: SystemStatePacket,
    settings: CommonSettings,
    plan: Plan,
    duration_us: int,
    *,
    rollback_id: str = "",
) -> EpochReviewed:
    return EpochReviewed(
        **origin.envelope(
            f"review/{packet.packet}", timeline=packet.timeline, causation_id=packet.event_id
        ),
        packet_id=packet.event_id,
        timeline=packet.timeline,
        packet=packet.packet,
        epoch=packet.epoch,
        step=packet.step,
        effective_step=packet.step,
        policy_version=settings.version,
        commands=plan.commands,
        reason=plan.reason,
        duration_us=duration_us,
        rollback_id=rollback_id,
    )


def _report(
    origin: Origin,
    packet: SystemStatePacket,
    settings: CommonSettings,
    names: tuple[str, ...],
    number: int,
) -> FieldReport:
    layers = tuple(
        ReportedLayer(
            name=layer.name,
            kind=layer.kind,
            in_features=layer.in_features,
            out_features=layer.out_features,
            chunks=tuple(seed.chunk_size for seed in layer.seeds),
            parameter_budget=settings.parameter_budget,
            geometry=layer.geometry,
        )
        for layer in packet.layers
        if layer.name in names
    )
    return FieldReport(
        **origin.envelope(f"field-report/{number}", causation_id=packet.event_id),
        run_seed=packet.run_seed,
        layers=layers,
        families=settings.families,
    )


def _outcome(origin: Origin, packet: SystemStatePacket, end: Ended) -> AdaptationOutcome:
    trial = end.trial
    return AdaptationOutcome(
        **origin.envelope(f"outcome/{trial.decision_id}", causation_id=packet.event_id),
        epoch=packet.epoch,
        step=packet.step,
        decision_id=trial.decision_id,
        layer=trial.layer,
        seed=trial.seed,
        kernel_id=trial.kernel_id,
        family=trial.family,
        context=trial.context,
        verdict=end.verdict,
        reward=end.reward,
        shadow_gap=trial.gap,
    )
