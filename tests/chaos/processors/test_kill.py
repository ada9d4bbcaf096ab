"""Processors that are killed in the middle of a run."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from esper.events import Message
from esper.events.records import EpochReviewed
from tests.integration.processors.workers import Line, review_of, running, shared_home
from tests.unit.tamiyo.world import Family, World

FAMILIES = {"0": (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03), Family("linear", 0.0))}


def test_tamiyo_killed_in_the_middle_of_packets_gives_every_answer_and_the_same(
    broker: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed right after a packet was sent, Tamiyo comes back, answers every packet, never with
    other bytes, and decides as if nothing was.

    SIGTERM ends it with exit code 0, to the same effect.
    """
    run, twin = (
        World({"0": 40}, FAMILIES, run_id="chaos", policy={"first_epoch": 1, "every_epochs": 1})
        for _ in range(2)
    )
    line = Line(broker, "decision.tamiyo")
    try:
        with running("tamiyo", broker, shared_home(tmp_path_factory)) as worker:
            for epoch in range(36):
                kill = {8: signal.SIGKILL, 16: signal.SIGTERM}.get(epoch)
                line.send(run.packet())
                if kill:
                    _, code = worker.signal(kill)
                    assert code in (-signal.SIGKILL, 0)
                    worker.start()
                event, received = line.wait(review_of("chaos", epoch))[0]
                assert isinstance(event, EpochReviewed)
                assert event.commands == twin.turn().commands
                run.turn_with(
                    [Message(received.topic, received.key or b"", received.value, received.headers)]
                )
            # a review is the first message of its answer: what comes behind the last one has to be
            # out before the worker ends
            for outcome in twin.outcomes:
                line.wait(lambda event, _, wanted=outcome.event_id: event.event_id == wanted)  # type: ignore[misc]
        told = {
            (event.event_id, received.value)
            for event, received in line.wait(lambda event, _: event.run_id == "chaos")
        }
    finally:
        line.close()
    assert max(Counter(event_id for event_id, _ in told).values()) == 1
    assert len(told) == 36 + len(twin.outcomes)
    assert twin.outcomes
