"""Asking Tamiyo: send the packet, wait as the decision mode says, and keep what the answers and the
catalogue bring.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from esper.clock import Clock
from esper.errors import BackpressureError
from esper.events import Event
from esper.events.records import (
    EpochReviewed,
    FieldReportAnswered,
    KernelPublished,
    RollbackRequested,
    SystemStatePacket,
)
from esper.oona.inbound.inbox import Delivered
from esper.urza.catalogue import Catalogue, compatible, rank

# in lockstep a packet is sent again after this: a dead part may have lost it, and Tamiyo answers a
# packet twice alike
RESEND_S = 5.0
NAP_S = 0.002
SILENCE_S = 30.0
"""After so long without an answer that a run waits for, somebody is told."""


class Hearing(Protocol):
    """Where messages for the run come from: the inbox."""

    def take(self) -> Sequence[Delivered]:
        """What has come since the last call. Never waits."""


class Speaking(Protocol):
    """Where packets go: a producer."""

    def send(self, event: Event) -> None:
        """Send an event, or raise BackpressureError."""


class Nobody:
    """Says nothing and hears nothing: the other side of a run that is re-executed
    without a bus.
    """

    def take(self) -> Sequence[Delivered]:
        """Nothing."""
        return ()

    def send(self, event: Event) -> None:
        """It goes nowhere."""


@dataclass(slots=True)
class Consultation:
    """One run's dialogue.

    `heard` says whether Tamiyo has answered since the last time that waiting for it was in vain.

    An answer may name a request to roll back, which comes on another topic: `named` are those,
    `came` the ones that are here. An answer is whole with it.
    """

    run_id: str
    inbox: Hearing
    producer: Speaking
    clock: Clock
    lockstep: bool
    timeout_s: float
    heard: bool = False
    answered: int = -1
    timeline: int = 0
    catalogue: Catalogue = field(default_factory=Catalogue)
    offered: tuple[str, ...] | None = None
    waiting: deque[Delivered] = field(default_factory=deque)
    named: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)

    def take(self) -> Iterator[Delivered]:
        """What has come in since the last call, after noting what it says of catalogue and answers.

        Never waits.

        What the caller does not get to, because a rollback sends it elsewhere, stays for the next
        call.
        """
        # a field, not a local: a rollback raises in the middle of the loop, and the rest must stay
        self.waiting += self.inbox.take()
        while self.waiting:
            delivered = self.waiting.popleft()
            event = delivered.event
            if isinstance(event, KernelPublished):
                self.catalogue = self.catalogue.evolve([event])
            elif isinstance(event, FieldReportAnswered) and event.run_id == self.run_id:
                self.offered = tuple(sorted({*(self.offered or ()), *event.kernels}))
            elif isinstance(event, EpochReviewed):
                if event.timeline != self.timeline:
                    continue  # a late answer to a timeline that was left
                self.heard, self.answered = True, max(self.answered, event.packet)
                self.named |= {event.rollback_id} - {""}
            elif isinstance(event, RollbackRequested):
                self.came.add(event.event_id)
            yield delivered

    def begin_timeline(self, timeline: int) -> None:
        """A rollback opened `timeline`: its packets count anew, and answers to earlier ones are
        void.
        """
        self.timeline, self.answered = timeline, -1
        self.named.clear()

    def kernels(self, shapes: set[tuple[int, int, str]], per_arm: int) -> list[KernelPublished]:
        """Kernels to offer for seeds of these (inputs, chunk width, geometry).

        In lockstep only those that answered this run's own field report: the store may hold others
        by chance. Live, the best `per_arm` of each shape and family that anyone published.
        """
        if self.lockstep:
            return [
                self.catalogue.kernels[kernel_id]
                for kernel_id in self.offered or ()
                if kernel_id in self.catalogue.kernels
            ]
        offers: dict[str, KernelPublished] = {}
        # sorted: a set's order would reach the packet, and with it the decision
        for in_features, width, geometry in sorted(shapes):
            fitting = compatible(
                self.catalogue, in_features=in_features, chunk_width=width, geometry=geometry
            )
            for family in sorted({kernel.family for kernel in fitting}):
                best = rank([kernel for kernel in fitting if kernel.family == family], {})[:per_arm]
                offers |= {kernel.kernel_id: kernel for kernel in best}
        return list(offers.values())

    def ask(
        self,
        packet: SystemStatePacket,
        handle: Callable[[Delivered], None],
        interrupted: Callable[[], bool],
        *,
        patience_s: float | None = None,
        silent: Callable[[], None],
    ) -> None:
        """Send `packet` and wait for its answer.

        In lockstep as long as it takes, and `silent` is called when that is long; live at most
        `patience_s` when it is given, else the timeout, and not at all while Tamiyo is silent.
        """
        self._send(packet)
        sent = begin = self.clock.monotonic()
        told = begin + SILENCE_S
        patience = (
            math.inf
            if self.lockstep
            else patience_s
            if patience_s is not None
            else self.timeout_s
            if self.heard
            # silent last time: training does not wait again until Tamiyo has spoken
            else 0.0
        )
        while not interrupted():
            for delivered in self.take():
                handle(delivered)
            now = self.clock.monotonic()
            # the answer and a rollback that it names come on two topics, in either order
            if self.answered >= packet.packet and self.named <= self.came:
                return
            if now - begin >= patience:
                self.heard = False
                return
            if now - sent >= RESEND_S:
                self._send(packet)
                sent = now
            if now >= told:
                silent()
                told = math.inf
            self.clock.sleep(NAP_S)

    def wait_for_kernels(
        self,
        handle: Callable[[Delivered], None],
        interrupted: Callable[[], bool],
        *,
        patience_s: float,
        silent: Callable[[], None],
    ) -> bool:
        """Wait until the foundry has answered the run's field report and every kernel of the answer
        is known; in lockstep as long as it takes. `silent` is called when it takes long and nobody
        has published anything for as long.
        """
        begin = heard = self.clock.monotonic()
        known = len(self.catalogue.kernels)
        while self.offered is None or any(
            kernel_id not in self.catalogue.kernels for kernel_id in self.offered
        ):
            if interrupted() or (
                not self.lockstep and self.clock.monotonic() - begin >= patience_s
            ):
                return False
            for delivered in self.take():
                handle(delivered)
            now = self.clock.monotonic()
            if len(self.catalogue.kernels) != known:
                known, heard = len(self.catalogue.kernels), now
            if now - heard >= SILENCE_S:
                silent()
                heard = math.inf
            self.clock.sleep(NAP_S)
        return True

    def _send(self, packet: SystemStatePacket) -> None:
        try:
            self.producer.send(packet)
        except BackpressureError:
            # the broker has been away for long: the packet of the next epoch says more than this
            # one
            self.heard = False
