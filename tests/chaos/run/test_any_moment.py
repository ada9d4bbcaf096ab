"""A trainer dies at the worst moments: while a snapshot is being written, within a write to its
outbox, and with events that only it has.

Real trainers on a real broker, without the other parts; each run ends with the bits of the one that
was left alone.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.config import KafkaSettings
from esper.errors import UsageError
from esper.events.records import CheckpointTaken, RunResumed
from esper.oona.admin import topic_creation
from esper.oona.durable.frames import scan
from esper.stack.embedded import jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims
from tests.chaos.run.lives import CLOCK, journal
from tests.commands import Command, begin
from tests.folders import files_below
from tests.revived import revived_broker
from tests.waiting import until

pytestmark = pytest.mark.slow
EPOCHS = 20
MASTER_KEY = base64.b64encode(
    bytes(range(32))
).decode()  # machines that share a store share the key that opens its snapshots


@dataclass
class Machine:
    """A home with trainers that share a store."""

    home: Path
    store: Path
    broker: str

    def begin(self, run_id: str, *, resumed: bool = False) -> Command:
        """A life of a run."""
        environment = {
            **os.environ,
            "ESPER_HOME": str(self.home),
            "ESPER_URZA__STORE": str(self.store),
            "ESPER_KAFKA__BOOTSTRAP": self.broker,
            "ESPER_CHECKPOINTS__MASTER_KEY": MASTER_KEY,
        }
        return begin(
            self.broker,
            run_id,
            "0" if resumed else str(EPOCHS),
            module="tests.chaos.run.trainer",
            environment=environment,
        )

    def outbox(self, run_id: str) -> Path:
        """Where a run's frames are here."""
        return self.home / "runs" / run_id / "outbox"

    def frames(self, run_id: str) -> int:
        """Bytes of them."""
        return sum(path.stat().st_size for path in self.outbox(run_id).glob("*.frames"))


def killed(child: Command, moment: Callable[[], object]) -> None:
    """Kill -9 at a moment."""
    until(lambda: moment() or child.poll() is not None, "the moment")
    assert child.poll() is None, child.said()[1]
    child.kill()


def finished(child: Command) -> tuple[str, str]:
    """The digest with which a life ends, and what it said."""
    out, said = child.said()
    assert child.returncode == 0, said
    return json.loads(out.splitlines()[-1])["digest"], said


@pytest.fixture(scope="module")
def alone(broker: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    return finished(Machine(folder / "home", folder / "store", broker).begin("left-alone"))[0]


@pytest.fixture
def machine(tmp_path: Path, broker: str) -> Machine:
    """A machine of this test's own."""
    return Machine(tmp_path / "home", tmp_path / "store", broker)


def test_killed_while_a_snapshot_is_being_written(machine: Machine, alone: str) -> None:
    """Objects of a snapshot are in the store and its manifest is not, or nobody has said so: no
    journal names it, and the run ends alike.
    """
    run_id = "dies-in-a-snapshot"
    incoming = machine.store / ".incoming"

    def writing() -> bool:
        return (
            machine.frames(run_id) > 3_000
            and incoming.is_dir()
            and any(path.stat().st_size for path in files_below(incoming))
        )

    killed(machine.begin(run_id), writing)
    before = {str(path.relative_to(machine.store)) for path in files_below(machine.store)}
    digest, said = finished(machine.begin(run_id, resumed=True))
    assert digest == alone
    events = journal(machine.broker, run_id)
    (resumed,) = [event.sequence for event in events if isinstance(event, RunResumed)]
    named = {event.address for event in events[:resumed] if isinstance(event, CheckpointTaken)}
    assert named <= before
    assert "cannot be used" not in said


def test_killed_within_a_write_to_the_outbox(machine: Machine, alone: str) -> None:
    """Half of a frame at the end of the outbox is cut off and said.

    The run executes that decision anew and ends alike.
    """
    run_id = "dies-in-a-write"
    killed(machine.begin(run_id), lambda: machine.frames(run_id) > 4_000)
    segment = max(machine.outbox(run_id).glob("*.frames"))
    content = segment.read_bytes()
    *_, last = scan(segment, content)
    half = content[last.offset : last.offset + last.size // 2]
    segment.write_bytes(content[: last.offset + last.size] + half)
    digest, said = finished(machine.begin(run_id, resumed=True))
    assert digest == alone
    assert f"{len(half)} bytes of a write that never ended were cut off the outbox." in said
    events = journal(machine.broker, run_id)
    assert [event.sequence for event in events] == list(range(len(events)))


def sent(bootstrap: str, run_id: str) -> int:
    """How many events of a run Kafka has so far."""
    try:
        return len(journal(bootstrap, run_id))
    except UsageError:
        return 0


def test_what_only_a_dead_machine_has_is_lost_and_said(tmp_path: Path, alone: str) -> None:
    """The broker dies, the trainer goes on without it and dies too.

    Elsewhere the run goes on from what Kafka has; back here the tail is put aside.
    """
    run_id, store = "moves-house", tmp_path / "store"
    with PortClaims() as claims:
        ports = [
            claims.choose(salt=f"{tmp_path} {name}", preferred=())
            for name in ("broker", "controller")
        ]
    node, classpath = BrokerNode(tmp_path / "kafka", *ports), jars.kafka(lambda _: None)
    here, there = (Machine(tmp_path / name, store, node.bootstrap) for name in ("here", "there"))
    with running_broker(
        node, classpath, cluster_id="ZXNwZXItdGVzdC1ob3VzZQ", clock=CLOCK
    ) as broker:
        topic_creation.ensure(node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
        trainer = here.begin(run_id)
        until(lambda: here.frames(run_id) > 4_000 and sent(node.bootstrap, run_id), trainer.poll)
        broker.kill()
        broker.wait()
        then = here.frames(run_id)
        killed(trainer, lambda: here.frames(run_id) > then + 4_000)
    with revived_broker(node, cluster_id="ZXNwZXItdGVzdC1ob3VzZQ"):
        had = len(journal(node.bootstrap, run_id))
        _, said = (stranger := there.begin(run_id, resumed=True)).said()
        assert stranger.returncode == 2
        assert "put the trainer.pub.pem of that one into keys/signing" in said
        shutil.rmtree(there.home / "keys")
        shutil.copytree(here.home / "keys", there.home / "keys")  # the same installation, elsewhere
        moved = there.begin(run_id, resumed=True)
        until(lambda: len(journal(node.bootstrap, run_id)) > had + 3, moved.poll)
        moved.send_signal(signal.SIGTERM)
        _, said = moved.said()
        assert moved.returncode == 130, said
        assert "were written elsewhere; what that place had not sent is lost." in said
        digest, said = finished(here.begin(run_id, resumed=True))
        assert "were not sent but put into" in said
        assert "another writer's events stand at its sequences in the journal" in said
        assert digest == alone
        events = journal(node.bootstrap, run_id)
        assert [event.sequence for event in events] == list(range(len(events)))
        assert [event.incarnation for event in events if isinstance(event, RunResumed)] == [1, 2]
