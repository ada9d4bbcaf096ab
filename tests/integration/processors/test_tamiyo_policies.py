"""A policy of an installed package in a Tamiyo on a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.events import Event
from esper.events.records import DeadLettered, EpochReviewed
from esper.oona.bus.port import Received
from tests.integration.processors.workers import Line, Worker, review_of, running
from tests.plugins import POLICY, install
from tests.unit.tamiyo.world import Family, World

GROUPS = {
    "esper.policies": {"first-open": "FIRST_OPEN"},
    "esper.bandits": {"last": "LAST"},
}
BREAKS = POLICY.replace(
    '    """The first kernel',
    '    if packet.epoch == 2:\n        raise SystemExit("over")\n    """The first kernel',
)


def world(run_id: str, **policy: object) -> World:
    """A run of one layer and two families."""
    families = (Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03))
    return World({"0": 40}, {"0": families}, run_id=run_id, policy=policy)


def installed(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of a worker beside which a package with this source is installed."""
    site = install(tmp_path / "site", "esper_first_open", source, GROUPS)
    monkeypatch.setenv("PYTHONPATH", str(site))
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


def test_a_policy_that_breaks_costs_its_own_packet_alone(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packet on which it ends the process is answered without commands, with the reason, and is
    in dead.letters; its other packets, and other runs, are answered as ever by the same worker.
    """
    home = installed(tmp_path, BREAKS, monkeypatch)
    line = Line(broker, "decision.tamiyo", "innovation.blueprints", "dead.letters", home=home)
    mine, other = world("breaks", name="first-open"), world("sound", first_epoch=1, every_epochs=1)
    with running("tamiyo", broker, home):
        for _ in range(4):
            for one in (mine, other):
                line.send(one.packet())
                line.wait(review_of(one.run_id, one.epoch))
                one.epoch += 1
        reviews = [
            event
            for event, _ in line.wait(lambda event, _: isinstance(event, EpochReviewed), count=8)
            if isinstance(event, EpochReviewed)
        ]
        (letter,) = line.wait(lambda event, received: _of_tamiyo(event, received, b"breaks"))
    line.close()
    commands = {(one.run_id, one.packet): len(one.commands) for one in reviews}
    assert [commands["breaks", packet] for packet in range(4)] == [1, 1, 0, 1]
    assert [commands["sound", packet] > 0 for packet in range(2)] == [False, True]
    (broken,) = (one for one in reviews if (one.run_id, one.packet) == ("breaks", 2))
    assert broken.reason == (
        "The policy first-open decided nothing on this packet: SystemExit: over."
    )
    assert isinstance(letter[0], DeadLettered)
    assert letter[0].error.endswith(broken.reason)


def _of_tamiyo(event: Event, received: Received, key: bytes) -> bool:
    del received
    return (
        isinstance(event, DeadLettered)
        and event.consumer == "tamiyo"
        and event.source_topic == "system.events.epoch"
        and key in event.payload
    )


def test_a_package_that_cannot_be_used_keeps_tamiyo_from_starting(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence names it, and the exit code is that of a usage error."""
    home = installed(tmp_path, "FIRST_OPEN = LAST = 1", monkeypatch)
    tamiyo = Worker("tamiyo", broker, home)
    tamiyo.start()
    assert tamiyo.wait(60) == 2
    (said,) = tamiyo.log.read_text().strip().splitlines()
    assert "'last' of package esper_first_open (entry point group esper.bandits) is int" in said
