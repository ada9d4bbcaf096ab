"""Claims about waiting for an answer: in lockstep as long as it takes, and said once it is long."""

from __future__ import annotations

from esper.clock import ManualClock
from esper.tolaria.exchange.consultation import SILENCE_S, Consultation, Nobody
from tests.unit.tolaria.test_emergency import packet


def consultation(clock: ManualClock, *, lockstep: bool) -> Consultation:
    """One to which nobody answers."""
    return Consultation(
        run_id="laboratory-1",
        inbox=Nobody(),
        producer=Nobody(),
        clock=clock,
        lockstep=lockstep,
        timeout_s=1.0,
        heard=True,
    )


def test_a_run_that_waits_says_so_once() -> None:
    """For Tamiyo, and for the foundry, whose kernels take a while."""
    clock, told = ManualClock(), list[float]()
    begun = clock.monotonic()

    def asked() -> bool:
        return clock.monotonic() - begun > 4 * SILENCE_S

    talk = consultation(clock, lockstep=True)
    talk.ask(packet(3), lambda _: None, asked, silent=lambda: told.append(clock.monotonic()))
    assert [round(one - begun) for one in told] == [SILENCE_S]
    told.clear()
    begun = clock.monotonic()
    talk.wait_for_kernels(
        lambda _: None, asked, patience_s=0, silent=lambda: told.append(clock.monotonic())
    )
    assert [round(one - begun) for one in told] == [SILENCE_S]


def test_a_live_run_does_not_wait_that_long() -> None:
    """It trains on, without a word."""
    told: list[str] = []
    talk = consultation(ManualClock(), lockstep=False)
    talk.ask(packet(3), lambda _: None, lambda: False, silent=lambda: told.append("silent"))
    assert told == []
