"""What the foundry shows of its kernels to other threads: the catalogue, how long each took to
compile, and what it was worth in runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from esper.clock import Clock
from esper.errors import EsperError
from esper.events.codec import schema_id
from esper.events.records import AdaptationOutcome
from esper.events.schemas import wire_schema
from esper.events.seals import Trust
from esper.oona.bus.port import Bus, Received
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake, Refusals
from esper.urza.catalogue import Catalogue

SENDER: Final = "urza"
_BATCH: Final = 2_000
_POLL_S: Final = 0.5
_PAUSE_S: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KernelWorth:
    """What a kernel was worth: the mean of its rewards, 0 to 1, over `outcomes` decisions in all
    runs.
    """

    score: float
    outcomes: int


@dataclass(frozen=True)
class Performances:
    """The fold of AdaptationOutcome: rewards by kernel, each decision once. Pure."""

    rewards: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: MappingProxyType({}))

    def evolve(self, outcome: AdaptationOutcome) -> Performances:
        """The rewards after one more outcome; reported again, a decision changes nothing."""
        known = self.rewards.get(outcome.kernel_id, {})
        if outcome.decision_id in known:
            return self
        return Performances(
            MappingProxyType(
                {**self.rewards, outcome.kernel_id: {**known, outcome.decision_id: outcome.reward}}
            )
        )

    def of(self, kernel_id: str) -> KernelWorth | None:
        """What a kernel was worth; None where no run has ended a decision about it."""
        rewards = self.rewards.get(kernel_id)
        return KernelWorth(sum(rewards.values()) / len(rewards), len(rewards)) if rewards else None


@dataclass
class KernelShelf:
    """Whole values that one thread puts here and others read: each is immutable, so no reader sees
    half a change.

    Attributes:
        catalogue: what is published.
        compile_ms: time of each kernel's compilation, milliseconds.
        performances: what kernels were worth.
    """

    catalogue: Catalogue = field(default_factory=Catalogue)
    compile_ms: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    performances: Performances = field(default_factory=Performances)


def follow_outcomes(
    shelf: KernelShelf,
    bus: Bus,
    clock: Clock,
    stop: threading.Event,
    refusals: Refusals,
    trust: Callable[[], Trust] = Trust,
) -> None:
    """Keep `shelf.performances` up to date from Kafka, by Tamiyo's own outcomes, until `stop` is
    set. Where Kafka fails, begin anew after a pause.
    """
    while not stop.is_set():
        performances = Performances()
        try:
            with (
                bus.producer(sender_id=SENDER) as producer,
                bus.reader(
                    [AdaptationOutcome.TOPIC], start="beginning", headers=False, follow=True
                ) as reader,
            ):
                intake = Intake(DeadLetters(producer, SENDER, clock), refusals, trust)
                while not stop.is_set():
                    for received in reader.poll(_BATCH, _POLL_S):
                        performances = (
                            intake.handle(
                                received, partial(_evolved, performances, received, intake)
                            )
                            or performances
                        )
                    producer.poll()
                    if len(performances.rewards) >= len(
                        shelf.performances.rewards
                    ):  # beginning anew, it forgets nothing meanwhile
                        shelf.performances = performances
        except EsperError as error:
            _log.info("outcomes are not read: %s", error)
            stop.wait(_PAUSE_S)


def _evolved(performances: Performances, received: Received, intake: Intake) -> Performances:
    if (
        wire_schema(schema_id(received.value)).record is not AdaptationOutcome
    ):  # the topic's other records are large, and not ours
        return performances
    event = intake.opened(received)
    return performances.evolve(event) if isinstance(event, AdaptationOutcome) else performances
