"""The policy `thompson-schedule`, a schedule and a bandit: which seeds to germinate, keep and cull
after a packet, with what confidence and urgency. Pure.

Confidence and urgency are probabilities under a stated model; their formulas stand in the functions
of that name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from esper.events.records import ReviewedCommand, SystemStatePacket
from esper.lifecycle import IN_TRAINING
from esper.policies import ScheduleSettings
from esper_processors.tamiyo.deciding.bandits import (
    FRESH_GAIN,
    Arm,
    Beta,
    fresh_gain,
    known,
    normal_cdf,
    sign_test,
)
from esper_processors.tamiyo.deciding.features import (
    ACTIVE,
    ArmKey,
    Choice,
    choices,
    context,
    epochs_left,
)
from esper_processors.tamiyo.deciding.plan import Plan, Prior, reviewed
from esper_processors.tamiyo.deciding.policy_state import ArmRecord, PolicyState, Span, Trial

OWN = 2.0
"""Weight of a trial in its own arm's posterior: the kernel and the layer are the same, only the
chunk is another.
"""
SAME_LAYER = 0.5
"""Weight of a trial of another family on the same layer: a layer that holds nothing back gains from
no family.
"""
SAME_FAMILY = 0.25
"""Weight of a trial of the same family on another layer."""
LOOKS = 8
"""How often the gate of TRAINING looks at a kernel before its budget is spent, about once an epoch.
"""
HARM_WEIGHT = 2.0
"""Trials that the prior probability of harm counts for."""
GRAFT = (0.13, 0.06, 4.0)
"""Prior mean and standard deviation of the time from germination to full blending, as fractions of
the run's, and the trials that it counts for.
"""
TRAIN = (0.1, 0.05, 4.0)
"""The same for the time in GERMINATED and TRAINING."""
AHEAD = 2.0
"""Measurements ahead for which a shadow-loss gap is forecast before a kernel in TRAINING is given
up.
"""
FEW_EPOCHS = 30.0
"""The epochs of a run that has ended none, and so does not know how long its are."""
KEEP = 0.95
"""Probability of a positive shadow-loss gap that a kernel needs to be kept (one-sided z-test at 5
%).
"""
CULL_SIGNS = 2
"""Validations with negative dependence before a live kernel may be culled."""


def decide(
    state: PolicyState,
    packet: SystemStatePacket,
    settings: ScheduleSettings,
    prior: Prior,
    generator: np.random.Generator,
) -> Plan:
    """The plan for a packet that `state` has already observed."""
    # culls first: both may be true of one seed, and a plan commands a seed once
    culls = _culls(state, packet, settings)
    culled = {(command.layer, command.seed) for command in culls}
    keeps = [
        command
        for command in _keeps(state, packet, settings)
        if (command.layer, command.seed) not in culled
    ]
    ends = (*culls, *keeps)
    germinations, reason = _germinations(state, packet, settings, prior, generator)
    return Plan(
        (*ends, *germinations), " ".join((*(_sentence(command) for command in ends), reason))
    )


def posterior(state: PolicyState, key: ArmKey, prior: Beta, parameters: int) -> Arm:
    """An arm's probability of success and gain: the prior, by the parameters of its largest kernel,
    its own trials, and with less weight those of its layer and of its family.
    """
    success = prior
    # sorted: a sum of fractions depends on its order, and the draws on the sum
    for other, record in sorted(state.arms.items()):
        weight = (
            OWN
            if other == key
            else SAME_LAYER
            if other.layer == key.layer
            else SAME_FAMILY
            if other.family == key.family
            else 0.0
        )
        success = success.plus(weight * record.successes, weight * record.failures)
    return Arm(success, state.record(key).gain, fresh_gain(parameters))


def false_pass(gate_z: float) -> float:
    """Probability that one look lets a kernel pass that is no improvement: P(z > gate_z) under a
    gap of zero.
    """
    return round(normal_cdf(-gate_z), 4)


def confidence(state: PolicyState, key: ArmKey, success: Beta, gate_z: float) -> float:
    """Probability that germinating this arm does no harm to the live model.

    A kernel that does not improve the held-out loss never touches the live pass unless the gate of
    TRAINING errs. With u the probability that the kernel is useless, P(harm) <= u * LOOKS *
    false_pass(gate_z) (union bound over the looks). u = 1 - E[success]. That bound is the mean of a
    Beta prior worth `HARM_WEIGHT` trials, which the arm's trials in this run update: `harmed` are
    those that had passed the gate and were culled later.
    """
    bound = (1 - success.mean) * min(1.0, LOOKS * false_pass(gate_z))
    record = state.record(key)
    trials = record.successes + record.failures
    return 1 - (HARM_WEIGHT * bound + record.harmed) / (HARM_WEIGHT + max(trials, record.harmed))


def urgency(
    state: PolicyState, packet: SystemStatePacket, choice: Choice, success: Mapping[ArmKey, Beta]
) -> float:
    """Probability that waiting an epoch costs more than germinating now.

    Waiting costs an epoch of what the kernel would gain, if it can still be blended before the
    schedule ends, and if nothing that the coming epoch may teach would change the choice. The first
    is P(D <= R) = Phi((R - m) / s), with R the epochs left and D the epochs from germination to
    full blending, mean m and standard deviation s from this run's trials and a prior. The second is
    a product over the trials that are in training: one ends within the epoch with probability 1 /
    t, t the mean training time, and would change the choice if it were a success of another arm of
    the same layer, or a failure of the same arm.
    """
    mean, spread = _epochs(state.grafting, packet, GRAFT)
    fits = normal_cdf((epochs_left(packet) - mean) / spread)
    train, _ = _epochs(state.training, packet, TRAIN)
    unchanged = 1.0
    for trial in state.trials.values():
        if trial.learned or trial.layer != choice.key.layer:
            continue
        chance = success.get(trial.key, Beta()).mean
        # at least one epoch, or the probability that it ends within the next would exceed 1
        unchanged *= 1 - (1 - chance if trial.key == choice.key else chance) / max(train, 1.0)
    return fits * unchanged


def _epochs(
    span: Span, packet: SystemStatePacket, prior: tuple[float, float, float]
) -> tuple[float, float]:
    """Mean and standard deviation of a time in epochs, from the trials of this run and a prior in
    fractions of it; one epoch more than the fraction, because stages end with epochs.
    """
    mean, spread, weight = prior
    epochs = packet.epoch + epochs_left(packet) if packet.epoch else FEW_EPOCHS
    return span.estimate(1 + mean * epochs, max(spread * epochs, 0.5), weight)


def _germinations(
    state: PolicyState,
    packet: SystemStatePacket,
    settings: ScheduleSettings,
    prior: Prior,
    generator: np.random.Generator,
) -> tuple[tuple[ReviewedCommand, ...], str]:
    room, reason = _room(state, packet, settings)
    if not room:
        return (), reason
    open_choices = choices(packet, settings, state.taken())
    if not open_choices:
        return (), "No kernel of the catalogue fits a dormant seed."
    commands: list[ReviewedCommand] = []
    refused = ""
    layers = {layer.name: layer for layer in packet.layers}
    arms = {
        key: posterior(
            state,
            key,
            prior(context(layers[key.layer], key.family)),
            max(kernel.parameters for choice in found for kernel in choice.kernels),
        )
        for key, found in open_choices.items()
    }
    success = {key: arm.success for key, arm in arms.items()}
    bandit = known()[settings.bandit]
    while arms and len(commands) < room:
        key, worth = bandit.pick(_contenders(arms, state, commands), generator)
        choice = _free_seed(open_choices[key], state, commands)
        if choice is None or (not state.record(key).successes and _on_trial(state, key, commands)):
            del arms[
                key
            ]  # no seed left, or an arm that has yet to show what it is worth: one trial at a time
            continue
        sure, urgent = (
            confidence(state, key, success[key], packet.gate_z),
            urgency(state, packet, choice, success),
        )
        # the trainer's guardrails refuse the same; a refused command would hold its seed for a
        # packet
        if sure <= settings.min_confidence or urgent <= settings.min_urgency:
            refused = (
                f"{key.family} on {key.layer} has confidence {sure:.2f} and urgency "
                f"{urgent:.2f}, which is too little."
            )
            del arms[key]
            continue
        commands.append(_germinate(state, packet, choice, arms[key], worth, (sure, urgent)))
    if not commands:
        return (), refused or "Every arm that fits is already on trial."
    names = ", ".join(
        f"{command.family} on {command.layer}[{command.seed}]" for command in commands
    )
    return tuple(commands), f"Germinates {names}."


def _contenders(
    arms: Mapping[ArmKey, Arm], state: PolicyState, new: list[ReviewedCommand]
) -> list[tuple[ArmKey, Arm]]:
    """The arms to draw from: while some have not been tried at all, those whose every trial failed
    stand back.

    Each arm is pulled once before a failure is repeated, as UCB1 begins (Auer, Cesa-Bianchi and
    Fischer 2002, Machine Learning 47).
    """
    untried = {
        key for key in arms if state.record(key) == ArmRecord() and not _on_trial(state, key, new)
    }
    return [
        (key, arm)
        for key, arm in sorted(arms.items())
        if not untried or key in untried or state.record(key).successes
    ]


def _room(
    state: PolicyState, packet: SystemStatePacket, settings: ScheduleSettings
) -> tuple[int, str]:
    """How many seeds may be germinated now, and why none when it is none."""
    stages = [seed.stage for layer in packet.layers for seed in layer.seeds]
    pending = len(state.taken())
    active = sum(stage in ACTIVE for stage in stages) + pending
    training = sum(stage in IN_TRAINING for stage in stages) + pending
    if packet.epoch < settings.first_epoch:
        return 0, f"Growth begins at epoch {settings.first_epoch}."
    if (packet.epoch - settings.first_epoch) % settings.every_epochs:
        return (
            0,
            (
                f"Growth is due every {settings.every_epochs} epochs, counted from "
                f"{settings.first_epoch}."
            ),
        )
    if packet.step < settings.first_fraction * packet.total_steps:
        return 0, f"Growth begins once {settings.first_fraction:.0%} of the steps are done."
    if packet.step > settings.last_fraction * packet.total_steps:
        return (
            0,
            (
                f"More than {settings.last_fraction:.0%} of the steps are done: nothing new is "
                "germinated."
            ),
        )
    if training >= settings.max_training:
        return 0, f"{training} seeds are in training, the most allowed is {settings.max_training}."
    if active >= settings.max_active:
        return 0, f"{active} seeds are active, the most allowed is {settings.max_active}."
    return min(settings.max_training - training, settings.max_active - active, packet.per_epoch), ""


def _on_trial(state: PolicyState, key: ArmKey, new: list[ReviewedCommand]) -> bool:
    arms = (*(trial.key for trial in state.trials.values()), *map(_arm_of, new))
    return key in arms


def _arm_of(command: ReviewedCommand) -> ArmKey:
    return ArmKey(command.layer, command.family)


def _free_seed(
    candidates: tuple[Choice, ...], state: PolicyState, new: list[ReviewedCommand]
) -> Choice | None:
    """The seed of an arm that was used least, the first of these; None when all were just taken."""
    used = {(command.layer, command.seed) for command in new}
    free = [choice for choice in candidates if (choice.layer.name, choice.seed.seed) not in used]
    return min(
        free,
        key=lambda choice: (
            # the least used first: a chunk where kernels failed is not the only one tried
            state.uses.get((choice.layer.name, choice.seed.seed), 0),
            choice.seed.seed,
        ),
        default=None,
    )


def _germinate(
    state: PolicyState,
    packet: SystemStatePacket,
    choice: Choice,
    arm: Arm,
    worth: float,
    sure: tuple[float, float],
) -> ReviewedCommand:
    kernel = min(
        choice.kernels,
        key=lambda kernel: (state.kernels.get(kernel.kernel_id, 0), kernel.kernel_id),
    )
    record = state.record(choice.key)
    if record.successes:  # what worked is taken again
        kernel = max(
            choice.kernels,
            key=lambda kernel: (state.kernels.get(kernel.kernel_id, 0), kernel.kernel_id),
        )
    evidence = {
        "strategy": "SPECIALIZE" if record.successes else "DIVERSIFY",
        "success": [arm.success.successes, arm.success.failures],
        "gain_median": arm.median_gain,
        "sampled_worth": worth,
        "trials": [record.successes, record.failures, record.harmed],
        "epochs_left": epochs_left(packet) if packet.epoch else None,
        "graft_epochs": _epochs(state.grafting, packet, GRAFT),
    }
    return reviewed(
        packet,
        "GERMINATE",
        (choice.layer.name, choice.seed.seed),
        confidence=sure[0],
        urgency=sure[1],
        expected_impact=arm.success.mean * arm.median_gain * packet.validation_loss,
        evidence=evidence,
        kernel_id=kernel.kernel_id,
        family=kernel.family,
    )


def _keeps(
    state: PolicyState, packet: SystemStatePacket, settings: ScheduleSettings
) -> list[ReviewedCommand]:
    """FOSSILISE: the z-test on the shadow-loss gap is passed, and the model does not do better
    without the kernel.

    Confidence is P(gap > 0) = Phi(z). Urgency is the probability that another measurement of the
    gap would agree, Phi(z / sqrt 2): then waiting only holds the place of another kernel.
    """
    commands = []
    for trial, seed in _carried(state, packet):
        if (
            seed.stage != "PROBATIONARY"
            or packet.epoch - seed.stage_epoch < settings.fossilise_after_epochs
            or seed.dependence < 0
        ):
            continue
        # without an error nothing was measured: z = 0 is even odds, which never keeps
        z = seed.shadow_gap / seed.shadow_gap_error if seed.shadow_gap_error > 0 else 0.0
        sure = normal_cdf(z)
        if sure >= KEEP and sure > settings.min_confidence:
            evidence = {
                "gap": seed.shadow_gap,
                "gap_error": seed.shadow_gap_error,
                "z": z,
                "dependence": seed.dependence,
            }
            commands.append(
                reviewed(
                    packet,
                    "FOSSILISE",
                    trial.place,
                    confidence=sure,
                    urgency=normal_cdf(z / 2**0.5),
                    expected_impact=seed.shadow_gap,
                    evidence=evidence,
                    family=trial.family,
                )
            )
    return commands


def _culls(
    state: PolicyState, packet: SystemStatePacket, settings: ScheduleSettings
) -> list[ReviewedCommand]:
    """CULL: a kernel in TRAINING promises less than an arm that nobody has tried, or the model
    keeps doing better without a live one.

    An untried arm promises t = P(success) * median gain * loss, under the prior. A kernel in
    TRAINING is forecast to reach f = gap + `AHEAD` * change, with standard error s from those of
    gap and change. Confidence is P(f < t) = Phi(z), z = (t - f) / s; urgency Phi(z / sqrt 2), that
    another measurement would agree. It is done only while something else may still be germinated.
    Live, dependence has no standard error: its signs are counted. Confidence is the posterior
    probability that a negative sign is the more likely one, urgency the probability that the next
    is negative again.
    """
    promised = Beta().mean * FRESH_GAIN * packet.validation_loss
    # culling makes room for another arm; when none may come, a weak kernel costs nothing more
    growing = packet.step <= settings.last_fraction * packet.total_steps
    commands = []
    for trial, seed in _carried(state, packet):
        if (
            seed.stage == "TRAINING"
            and growing
            # a change needs two measurements
            and trial.looks > 1
            and trial.steps >= settings.cull_training_after_steps
        ):
            forecast = trial.gap + AHEAD * trial.change
            z = (promised - forecast) / max(
                math.hypot(trial.gap_error, AHEAD * trial.change_error), 1e-9
            )
            sure, urgent, impact = normal_cdf(z), normal_cdf(z / 2**0.5), 0.0
            evidence: dict[str, Any] = {
                "gap": trial.gap,
                "change": trial.change,
                "forecast": forecast,
                "promised": promised,
                "z": z,
            }
        elif seed.stage in ("SHADOWING", "PROBATIONARY") and trial.negative >= CULL_SIGNS:
            looks = trial.negative + trial.positive
            sure, urgent, impact = (
                sign_test(trial.negative, looks),
                (trial.negative + 1) / (looks + 2),
                max(-seed.dependence, 0.0),
            )
            evidence = {"negative": trial.negative, "of": looks, "dependence": seed.dependence}
        else:
            continue
        if sure > settings.min_confidence:
            commands.append(
                reviewed(
                    packet,
                    "CULL",
                    trial.place,
                    confidence=sure,
                    urgency=urgent,
                    expected_impact=impact,
                    evidence=evidence,
                    family=trial.family,
                )
            )
    return commands


def _carried(state: PolicyState, packet: SystemStatePacket) -> list[tuple[Trial, Any]]:
    """The trials that seeds of the packet carry, in the packet's order."""
    return [
        (state.trials[seed.decision_id], seed)
        for layer in packet.layers
        for seed in layer.seeds
        if seed.decision_id in state.trials
    ]


def _sentence(command: ReviewedCommand) -> str:
    verb = "Keeps" if command.command == "FOSSILISE" else "Culls"
    return f"{verb} {command.family} on {command.layer}[{command.seed}]."
