"""What Tamiyo remembers of a run, and how a packet changes it.

Pure: `observe(state, packet) -> (state, ended)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from esper.events.records import SeedState, Stage, SystemStatePacket, Verdict
from esper.lifecycle import HOLDING, LIVE
from esper_processors.tamiyo.deciding.bandits import Gain
from esper_processors.tamiyo.deciding.emergency import Watch
from esper_processors.tamiyo.deciding.features import ArmKey, relative, seeds

Learned = Literal["", "success", "failure"]
Fate = Verdict | Literal["UNSEEN"] | None
"""How a trial stands: ended, never begun, or still going."""

UNSEEN_PACKETS = 2
"""Packets after which a live germination that no seed shows counts as refused.

In lockstep it is one, but a late live answer misses one.
"""


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """What trials of one arm in this run came to.

    `harmed`: kernels that passed the gate of TRAINING and had to be culled later.
    """

    successes: int = 0
    failures: int = 0
    harmed: int = 0
    gain: Gain = field(default_factory=Gain)


@dataclass(frozen=True, slots=True)
class Span:
    """Number, sum and sum of squares of durations in epochs."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, epochs: float) -> Span:
        """With one more duration."""
        return Span(self.count + 1, self.total + epochs, self.squares + epochs * epochs)

    def estimate(self, mean: float, spread: float, weight: float) -> tuple[float, float]:
        """Mean and standard deviation of the next duration, from a prior of `weight` durations with
        `mean` and `spread`.
        """
        count = self.count + weight
        centre = (self.total + weight * mean) / count
        second = (self.squares + weight * (mean * mean + spread * spread)) / count
        # at least half an epoch: epochs are whole numbers, and equal ones would make a forecast
        # certain
        return centre, max(second - centre * centre, 0.25) ** 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A germination that was commanded and has not ended.

    `stage` is the last one seen, empty before a packet shows the decision. `gap` is the newest
    shadow-loss gap, nats, after `steps` shadow steps, and `change` its difference to the one
    before, with standard errors; `looks` counts them.
    """

    decision_id: str
    layer: str
    seed: int
    family: str
    kernel_id: str
    context: str
    packet: int
    epoch: int
    stage: Stage | Literal[""] = ""
    learned: Learned = ""
    steps: int = 0
    gap: float = 0.0
    gap_error: float = 0.0
    change: float = 0.0
    change_error: float = 0.0
    looks: int = 0
    relative_gap: float = 0.0
    negative: int = 0
    positive: int = 0
    live: bool = False

    @property
    def key(self) -> ArmKey:
        """Its arm."""
        return ArmKey(self.layer, self.family)

    @property
    def place(self) -> tuple[str, int]:
        """Its seed."""
        return self.layer, self.seed


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial whose seed has come to an end. `reward` is 1 for a success, 0 otherwise."""

    trial: Trial
    verdict: Verdict
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """Everything that decisions on a run rest on, beside the packet.

    `packet` is -1 before the first.
    """

    timeline: int = 0
    packet: int = -1
    arms: dict[ArmKey, ArmRecord] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    uses: dict[tuple[str, int], int] = field(default_factory=dict)
    training: Span = field(default_factory=Span)
    grafting: Span = field(default_factory=Span)
    reports: int = 0
    reported: tuple[str, ...] = ()
    watch: Watch = field(default_factory=Watch)

    def record(self, key: ArmKey) -> ArmRecord:
        """What an arm's trials came to."""
        return self.arms.get(key, ArmRecord())

    def taken(self) -> frozenset[tuple[str, int]]:
        """Seeds with a germination on the way that no packet shows yet."""
        return frozenset(trial.place for trial in self.trials.values() if not trial.stage)


def observe(state: PolicyState, packet: SystemStatePacket) -> tuple[PolicyState, tuple[Ended, ...]]:
    """The state after a packet, and the trials that it shows as ended.

    A packet of a later timeline ends every trial that is not fossilised. A rollback took it back,
    so nothing is learned of its kernel, unless Tamiyo sent the run back because it was unstable:
    then a kernel that was live has done harm.
    """
    rolled_back = packet.timeline > state.timeline
    unstable = rolled_back and state.watch.timeline == packet.timeline - 1
    present = seeds(packet)
    ended: list[Ended] = []
    state = replace(state, timeline=packet.timeline, packet=packet.packet)
    for decision_id in tuple(
        state.trials
    ):  # as they were begun: ids are made from the run's, and two equal runs add up alike
        trial = state.trials[decision_id]
        seed = present.get(trial.place)
        if seed is not None and seed.decision_id == decision_id:
            state, trial = _follow(state, trial, seed, packet)
            verdict: Fate = _verdict(trial)
        else:
            verdict = _gone(trial, packet, rolled_back=rolled_back)
        if verdict is None:
            state = replace(state, trials={**state.trials, decision_id: trial})
            continue
        state = replace(
            state, trials={key: kept for key, kept in state.trials.items() if key != decision_id}
        )
        if verdict == "UNSEEN":
            continue
        if not rolled_back:
            state, trial = _conclude(state, trial, verdict)
        elif unstable and trial.learned and verdict != "FOSSILIZED":
            state = _harmed(state, trial)
        ended.append(Ended(trial, verdict, 1.0 if trial.learned == "success" else 0.0))
    return state, tuple(ended)


def _follow(
    state: PolicyState, trial: Trial, seed: SeedState, packet: SystemStatePacket
) -> tuple[PolicyState, Trial]:
    """The trial as its seed shows it now; passing the gate of TRAINING is learned at once."""
    # a packet repeats the last measurement until there is a new one, which must not count as a look
    if seed.shadow_gap_error > 0 and seed.trained_steps > trial.steps and not trial.learned:
        error, gain = seed.shadow_gap_error, relative(seed.shadow_gap, packet)
        if trial.looks:
            trial = replace(
                trial,
                change=seed.shadow_gap - trial.gap,
                # treated as independent, so variances add up; where both err alike, this is the
                # larger error
                change_error=(error**2 + trial.gap_error**2) ** 0.5,
            )
        trial = replace(
            trial,
            looks=trial.looks + 1,
            steps=seed.trained_steps,
            gap=seed.shadow_gap,
            gap_error=error,
            relative_gap=gain,
        )
    # 0 is a validation without a measurement, or one that says neither
    if seed.stage in ("SHADOWING", "PROBATIONARY") and seed.dependence != 0:
        trial = replace(
            trial,
            negative=trial.negative + (seed.dependence < 0),
            positive=trial.positive + (seed.dependence > 0),
        )
    if seed.stage in ("SHADOWING", "PROBATIONARY", "FOSSILIZED") and not trial.live:
        trial = replace(trial, live=True)
        state = replace(state, grafting=state.grafting.plus(packet.epoch - trial.epoch))
    trial = replace(trial, stage=seed.stage)
    if seed.stage in LIVE and not trial.learned:
        success = trial.gap > packet.gate_z * trial.gap_error
        state, trial = _learn(state, trial, success=success)
        state = replace(state, training=state.training.plus(packet.epoch - trial.epoch))
    elif seed.stage not in HOLDING and not trial.learned:
        state = replace(state, training=state.training.plus(packet.epoch - trial.epoch))
    return state, trial


def _learn(state: PolicyState, trial: Trial, *, success: bool) -> tuple[PolicyState, Trial]:
    record = state.record(trial.key)
    if success:
        record = replace(
            record, successes=record.successes + 1, gain=record.gain.plus(trial.relative_gap)
        )
    else:
        record = replace(record, failures=record.failures + 1)
    return replace(state, arms={**state.arms, trial.key: record}), replace(
        trial, learned="success" if success else "failure"
    )


def _verdict(trial: Trial) -> Verdict | None:
    if trial.stage == "FOSSILIZED":
        return "FOSSILIZED"
    if trial.stage in ("CULLED", "EMBARGOED", "DORMANT"):
        return "CULLED"
    if trial.stage in ("RESETTING", "TERMINATED"):
        return "RESET"
    return None


def _gone(trial: Trial, packet: SystemStatePacket, *, rolled_back: bool) -> Fate:
    """What became of a trial whose seed does not carry its decision (any more)."""
    if trial.stage or rolled_back:
        return "RESET" if trial.stage else "UNSEEN"
    patience = 1 if packet.decisions == "LOCKSTEP" else UNSEEN_PACKETS
    return "UNSEEN" if packet.packet - trial.packet >= patience else None


def _conclude(state: PolicyState, trial: Trial, verdict: Verdict) -> tuple[PolicyState, Trial]:
    """What an end teaches: a kernel that never passed the gate failed.

    One that passed and was culled all the same did harm.
    """
    if not trial.learned:
        return _learn(state, trial, success=False)
    if verdict == "CULLED" and trial.learned == "success":
        state = _harmed(state, trial)
    return state, trial


def _harmed(state: PolicyState, trial: Trial) -> PolicyState:
    record = state.record(trial.key)
    return replace(state, arms={**state.arms, trial.key: replace(record, harmed=record.harmed + 1)})
