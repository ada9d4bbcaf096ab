"""What a run says to Tamiyo, and how long it waits for the answer."""

from __future__ import annotations

from dataclasses import dataclass

from esper.tolaria.exchange import packet as packets
from esper.tolaria.exchange.consultation import SILENCE_S
from esper.tolaria.exchange.grafting import seeds_waiting
from esper.tolaria.session.mailbox import Mailbox

_LOAD_S = 0.001  # between two looks for a kernel, in lockstep


@dataclass(slots=True)
class Dialogue:
    """Sends packets at epoch boundaries and applies what is answered in time.

    A record answers by itself.
    """

    mailbox: Mailbox

    def open(self) -> None:
        """Before the first step: wait for Tamiyo's first answer, and for the foundry when there are
        no kernels yet for these layers.
        """
        recorder, mailbox = self.mailbox.recorder, self.mailbox
        parts, settings = recorder.parts, recorder.parts.recipe.tamiyo
        if not settings.enabled:
            return
        begin = parts.clock.monotonic()
        offered = self._ask(patience_s=settings.start_timeout_s)
        remaining = settings.start_timeout_s - (parts.clock.monotonic() - begin)
        if (
            not parts.journal.replaying
            and not offered
            and (parts.consultation.lockstep or remaining > 0)
        ):
            parts.progress.say(
                "Waiting for the foundry: it compiles and verifies kernels for these "
                "layers, once for all runs."
            )
            if (
                not parts.consultation.wait_for_kernels(
                    mailbox.handle,
                    mailbox.stopping,
                    patience_s=remaining,
                    silent=lambda: self._tell_silence("The foundry", "foundry"),
                )
                and not recorder.standing.stop
            ):
                parts.progress.say(
                    "The foundry has not answered yet; training begins without kernels, "
                    "which can come later."
                )

    def consult(self) -> None:
        """At an epoch boundary: ask, and in lockstep wait until each kernel that was named is in
        its slot.
        """
        if self.mailbox.recorder.parts.recipe.tamiyo.enabled:
            self._ask()
            self._wait_for_loads()

    def _ask(self, patience_s: float | None = None) -> int:
        """Send the packet of this moment and apply what comes back.

        Gives how many kernels it offered.
        """
        recorder, mailbox = self.mailbox.recorder, self.mailbox
        parts, consultation, cursor = (
            recorder.parts,
            recorder.parts.consultation,
            recorder.standing.cursor,
        )
        recorder.catch_up()
        if parts.journal.replaying:
            return 0
        # before the packet is built: it must describe the state that the answer will meet
        mailbox.empty()
        kernels = consultation.kernels(set(parts.growing.shapes().values()), packets.PER_ARM)
        # fetched while Tamiyo decides
        parts.grafting.kernels.prefetch(kernels)
        packet = packets.build(
            origin=parts.origin,
            state=recorder.state,
            growing=parts.growing,
            recipe=parts.recipe,
            figures=cursor.figures,
            evidence=cursor.evidence,
            statistics=parts.monitor.statistics,
            kernels=kernels,
            total_steps=recorder.standing.total_steps,
            forked=recorder.forked,
        )
        consultation.ask(
            packet,
            mailbox.handle,
            mailbox.stopping,
            patience_s=patience_s,
            silent=lambda: self._tell_silence("Tamiyo", "tamiyo"),
        )
        return len(packet.catalogue)

    def _tell_silence(self, who: str, part: str) -> None:
        """Say that a run waits, and for whom: nothing else would."""
        parts = self.mailbox.recorder.parts
        way = (
            "a run in lockstep waits for it (decisions=live would not)"
            if parts.consultation.lockstep
            else "the run still waits for it"
        )
        parts.progress.say(
            f"{who} has not answered for {SILENCE_S:.0f} s, and {way}. `esper status` shows "
            f"whether it runs, and stack/logs/{part}.log in ESPER_HOME what ails it. Ctrl-C leaves "
            "the run, to be resumed."
        )

    def _wait_for_loads(self) -> None:
        parts = self.mailbox.recorder.parts
        # when a kernel arrives must not depend on the speed of a disk
        waits = parts.consultation.lockstep
        while (
            waits
            and not self.mailbox.stopping()
            and not parts.journal.replaying
            and seeds_waiting(self.mailbox.recorder.state)
        ):
            self.mailbox.place_loaded()
            parts.clock.sleep(_LOAD_S)
