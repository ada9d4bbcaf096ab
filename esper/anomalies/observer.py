"""The detectors together, over the events of any number of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.anomalies.anomaly import Anomaly, Cleared, Finding, Judgement, Subject
from esper.anomalies.detector import Detector
from esper.anomalies.gradients import GRADIENTS
from esper.anomalies.kernel_supply import KERNEL_SUPPLY
from esper.anomalies.layer_health import LAYERS
from esper.anomalies.losses import LOSSES
from esper.anomalies.tempo import TEMPO
from esper.anomalies.thresholds import Thresholds
from esper.events import Event

DETECTORS: tuple[Detector[Any], ...] = (*LOSSES, *GRADIENTS, *LAYERS, *TEMPO, *KERNEL_SUPPLY)
"""Every detector."""
READ: tuple[type[Event], ...] = tuple(
    dict.fromkeys(record for detector in DETECTORS for record in detector.reads)
)
"""Every record that some detector reads."""


@dataclass(frozen=True, slots=True)
class ObserverState:
    """All that an observer knows: it can be pickled, and an observer goes on from it.

    Attributes:
        memories: Memory of a detector by its name, run and scope.
        held: Conditions that hold, and their clean readings in a row.
        placed: Last step and epoch of each run.
    """

    memories: Mapping[tuple[str, str, str], Any] = field(default_factory=dict)
    held: Mapping[Subject, int] = field(default_factory=dict)
    placed: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Observer:
    """Gives each event to the detectors that read it, and says what holds and what is over.

    The same events in the same order give the same findings, from any state in between.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        state: ObserverState | None = None,
        detectors: Sequence[Detector[Any]] = DETECTORS,
    ) -> None:
        state = state or ObserverState()
        self._thresholds = thresholds or Thresholds()
        self._memories = dict(state.memories)
        self._held = dict(state.held)
        self._placed = dict(state.placed)
        self._timed = [detector for detector in detectors if detector.at]
        self._readers: dict[type[Event], list[Detector[Any]]] = {}
        self._clean = {detector.name: detector.clean for detector in detectors}
        for detector in detectors:
            for record in detector.reads:
                self._readers.setdefault(record, []).append(detector)

    @property
    def state(self) -> ObserverState:
        """What is known now."""
        return ObserverState(dict(self._memories), dict(self._held), dict(self._placed))

    def see(self, event: Event) -> list[Finding]:
        """What an event shows. Events of a run come in the order in which they occurred."""
        step, epoch = _place(event)
        if step >= 0:
            self._placed[event.run_id] = (step, epoch)
        findings: list[Finding] = []
        for detector in self._readers.get(type(event), ()):
            key = (detector.name, event.run_id, detector.scope(event))
            memory = self._memories.get(key, detector.begin)
            self._memories[key], readings = detector.see(memory, event, self._thresholds)
            for reading in readings:
                if reading.severity or self._held:
                    findings += self._judge(
                        detector.name,
                        event.run_id,
                        reading,
                        event.occurred_at,
                        (*reading.event_ids, event.event_id),
                    )
        return findings

    def at(self, now_us: int) -> list[Finding]:
        """What holds at a time, microseconds since 1970, because nothing came until then."""
        findings: list[Finding] = []
        for detector in self._timed:
            for (name, run_id, _), memory in self._memories.items():
                if name == detector.name and detector.at:
                    for reading in detector.at(memory, now_us, self._thresholds):
                        findings += self._judge(name, run_id, reading, now_us, reading.event_ids)
        return findings

    def forget(self, run_id: str) -> None:
        """Drop what is known of a run, for instance because it ended long ago."""
        self._memories = {key: one for key, one in self._memories.items() if key[1] != run_id}
        self._held = {key: one for key, one in self._held.items() if key.run_id != run_id}
        self._placed.pop(run_id, None)

    def _judge(
        self, name: str, run_id: str, reading: Judgement, when_us: int, ids: tuple[str, ...]
    ) -> list[Finding]:
        """An anomaly where it holds; the end of one after enough clean readings."""
        subject = Subject(name, run_id, reading.layer, reading.seed)
        step, epoch = self._placed.get(run_id, (-1, -1))
        if reading.severity:
            self._held[subject] = 0
            return [
                Anomaly(
                    subject,
                    reading.severity,
                    step,
                    epoch,
                    when_us,
                    reading.value,
                    reading.expected,
                    reading.sentence,
                    ids,
                )
            ]
        if subject not in self._held:
            return []
        self._held[subject] += 1
        if self._held[subject] < self._clean[name]:
            return []
        del self._held[subject]
        return [Cleared(subject, step, epoch, when_us)]


def _place(event: Any) -> tuple[int, int]:
    """Step and epochs completed; -1 where an event has none."""
    epoch = getattr(event, "epoch", -1)
    # an EpochEnded names the epoch that it ends, so one more is completed
    return getattr(event, "step", -1), epoch + 1 if event.NAME == "EpochEnded" else epoch
