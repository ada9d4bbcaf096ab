"""The foundry's service: hears field reports, answers each once, and survives being killed at any
moment.

It keeps no position of its own. On start it folds its topics from their beginning (`ReportLedger`),
and then answers what is unanswered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from esper.clock import Clock
from esper.errors import BackpressureError, CorruptError, UnavailableError
from esper.events import Event
from esper.events.records import FieldReport
from esper.karn import BlueprintIR, innovate
from esper.oona.bus.port import Bus, Producer, Reader, Received
from esper.oona.inbound.consumer_progress import ConsumerProgress, lag
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import RETRIABLE, Intake, Refusals, opened
from esper.tezzeret.answer import SENDER, Workshop, answer, give_up
from esper.tezzeret.compilation import Compiler
from esper.tezzeret.report_ledger import TOPICS, ReportLedger
from esper.urza.shelf import KernelShelf
from esper.urza.store import Store

_log = logging.getLogger("esper.tezzeret")
_BATCH = 1000
_POLL_S = 0.25
_SETTLE_S = 20.0
_LEAST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0


@dataclass
class Status:
    """What the foundry tells of itself; written by the service's thread alone."""

    ready: bool = False
    kernels: int = 0
    waiting: int = 0
    answered: int = 0
    dead_lettered: int = 0
    problem: str = field(default="The foundry is reading its topics.")


@dataclass(frozen=True, slots=True)
class Foundry:
    """The service. `run` works until `stop` is set.

    Attributes:
        bus: where reports come from and answers go.
        store: where artefacts go.
        clock: time.
        compiler: gives the compiler; called only when something has to be compiled, and may wait
            until it is loaded.
        innovate: what to propose for a report.
        shelf: where other threads see what is published.
    """

    bus: Bus
    store: Store
    clock: Clock
    compiler: Callable[[], Compiler]
    innovate: Callable[[FieldReport], tuple[BlueprintIR, ...]] = innovate
    status: Status = field(default_factory=Status)
    refusals: Refusals = field(default_factory=lambda: Refusals(SENDER))
    progress: ConsumerProgress = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "progress", ConsumerProgress(self.clock))

    shelf: KernelShelf = field(default_factory=KernelShelf)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Answer reports until told to stop.

        Where broker or store fail, begin anew from the topics after a pause that grows.
        """
        pause = _LEAST_PAUSE_S
        while not self.stop.is_set():
            try:
                with (
                    self.bus.producer(sender_id=SENDER) as producer,
                    self.bus.reader(TOPICS, start="beginning", follow=True) as reader,
                ):
                    session = _Session(self, producer, reader)
                    session.catch_up()
                    pause = _LEAST_PAUSE_S
                    session.serve()
            except (*RETRIABLE, CorruptError) as error:
                self.status.ready, self.status.problem = False, str(error)
                _log.warning("pauses for %g s: %s", pause, error)
                self.stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                self.progress.wait(str(error))


class _Session:
    """One connection to the bus, with what was learnt through it."""

    def __init__(self, foundry: Foundry, producer: Producer, reader: Reader) -> None:
        self._foundry = foundry
        self._producer = producer
        self._reader = reader
        self._intake = Intake(DeadLetters(producer, SENDER, foundry.clock), foundry.refusals)
        self._places: dict[str, Received] = {}
        self._ledger = ReportLedger()
        self._shop = Workshop(
            ledger=self._ledger,
            store=foundry.store,
            clock=foundry.clock,
            compiler=foundry.compiler,
            innovate=foundry.innovate,
            emit=self._emit,
            settle=self._settle,
        )

    def catch_up(self) -> None:
        """Fold the topics up to where they end now; from then on the service is ready."""
        # taken once: on a busy topic a moving end might never be reached
        ends = self._reader.stable_end()
        while not self._foundry.stop.is_set() and any(
            self._reader.position()[place] < end for place, end in ends.items()
        ):
            self._absorb(self._reader.poll(_BATCH, _POLL_S))
        self._tell()
        _log.info(
            "ready: %d kernels published, %d reports wait",
            self._foundry.status.kernels,
            self._foundry.status.waiting,
        )

    def serve(self) -> None:
        """Answer what waits, and then what comes."""
        while not self._foundry.stop.is_set():
            for report in self._ledger.waiting():
                if self._foundry.stop.is_set():
                    return
                self._answer(report)
            self._absorb(self._reader.poll(_BATCH, _POLL_S))
            self._producer.poll()

    def _answer(self, report: FieldReport) -> None:
        began = self._foundry.clock.monotonic()
        answered = self._intake.handle(
            self._places[report.event_id], lambda: answer(self._shop, report)
        )
        if answered is None:  # it cannot be answered; the run that sent it must not wait forever
            answered = give_up(self._shop, report)
        del self._places[report.event_id]
        seconds = round(self._foundry.clock.monotonic() - began, 3)
        self._tell()
        _log.info(
            "report %s of run %s answered after %.1f s: %d kernels, %d failed",
            report.event_id,
            report.run_id,
            seconds,
            len(answered.kernels),
            len(answered.failed),
        )

    def _absorb(self, received: list[Received]) -> None:
        for message in received:
            self._intake.handle(message, partial(self._apply, message))
        self._foundry.status.dead_lettered = self._foundry.refusals.total
        # lag asks the broker: a batch that is not full has reached the end anyway
        self._foundry.progress.turn(lag(self._reader) if len(received) == _BATCH else 0)

    def _apply(self, message: Received) -> None:
        event = opened(message)
        self._ledger.apply(event)
        if isinstance(event, FieldReport):
            self._places[event.event_id] = message

    def _emit(self, event: Event) -> None:
        """Send, and take note at once: should the delivery fail, `_settle` raises and the session's
        notes go with it.
        """
        # an answer takes minutes, and one attempt at a kernel seconds
        self._foundry.progress.turn()
        try:
            self._producer.send(event)
        except BackpressureError:
            self._settle()
            self._producer.send(event)
        self._ledger.apply(event)

    def _settle(self) -> None:
        ends = self._foundry.clock.monotonic() + _SETTLE_S
        while (
            (unsent := self._producer.flush(_POLL_S))
            and self._foundry.clock.monotonic() < ends
            and not self._foundry.stop.is_set()
        ):
            pass
        if lost := unsent + sum(self._producer.failed().values()):
            raise UnavailableError(
                f"The broker has not taken {lost} of the foundry's events; the answer is "
                "given again once it is back."
            )

    def _tell(self) -> None:
        shelf, status = self._foundry.shelf, self._foundry.status
        shelf.catalogue, shelf.compile_ms = (
            self._ledger.catalogue,
            # a copy: other threads read it while this one goes on
            MappingProxyType(dict(self._ledger.compile_ms)),
        )
        status.kernels = len(self._ledger.catalogue.kernels)
        status.waiting = len(self._ledger.waiting())
        status.answered = len(self._ledger.answered)
        status.problem = ""
        status.ready = True
