"""kill -9 of the writer, of the broker, and a stalled writer: the journal is gapless, nothing is
lost, nothing is doubled.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.config import KafkaSettings
from esper.events.codec import decode
from esper.events.envelope import JournalEvent
from esper.oona.admin import topic_creation
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.frames import MAGIC, scan
from esper.oona.durable.journal_reader import read
from esper.stack.embedded import jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims
from tests.revived import revived_broker
from tests.waiting import PATIENCE_S

CLOCK = SystemClock()
ENDLESS = 10**9


class Writer:
    """The writer process of a run, and what it has promised over all its lives."""

    def __init__(self, folder: Path, run: str, bootstrap: str) -> None:
        self.outbox = folder / run / "outbox"
        self.run = run
        self.promised: dict[int, str] = {}
        self._bootstrap = bootstrap
        self._incarnation = 0
        self._process: subprocess.Popen[str] | None = None

    def begin(self, events: int) -> None:
        """Start or resume."""
        self._incarnation += 1
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.chaos.oona.writer",
                str(self.outbox),
                self._bootstrap,
                str(self._incarnation),
                str(events),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )

    @property
    def process(self) -> subprocess.Popen[str]:
        """The living process."""
        assert self._process is not None
        return self._process

    def listen(self, lines: int) -> None:
        """Hear that many promises."""
        assert self.process.stdout is not None
        for _ in range(lines):
            self._note(self.process.stdout.readline())

    def kill(self) -> None:
        """Kill -9, and hear what was promised up to then."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Hear the rest; gives the exit code."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._note(line)
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)

    def _note(self, line: str) -> None:
        assert line.endswith("\n"), f"the writer ended early: {line!r}"
        sequence, event_id = line.split()
        assert int(sequence) not in self.promised, f"sequence {sequence} was promised twice"
        self.promised[int(sequence)] = event_id


def journal(bootstrap: str, run: str) -> dict[int, str]:
    """The journal in Kafka, sequence to event id.

    Asserts that it is gapless, in order, and holds nothing twice.
    """
    found: dict[int, str] = {}
    for received in read(KafkaBus(bootstrap), run, clock=CLOCK):
        event = decode(received.value, received.headers)
        assert isinstance(event, JournalEvent)
        assert event.sequence == len(found), f"sequence {event.sequence} at place {len(found)}"
        found[event.sequence] = event.event_id
    return found


def test_a_writer_killed_at_any_moment_loses_and_doubles_nothing(
    broker: str, tmp_path: Path
) -> None:
    """After several kills at random moments, every event that was ever durable is in the journal
    once, at its sequence.
    """
    chance = random.Random(20_260_101)  # noqa: S311 - moments to kill at, the same each time
    writer = Writer(tmp_path, "killed-writer", broker)
    for _ in range(4):
        writer.begin(ENDLESS)
        writer.listen(chance.randint(1, 150))
        CLOCK.sleep(chance.random() * 0.12)
        writer.kill()
    final = max(writer.promised) + 40
    writer.begin(final)
    assert writer.end() == 0
    found = journal(broker, writer.run)
    assert len(found) >= final
    assert {sequence: found[sequence] for sequence in writer.promised} == writer.promised
    promises_cut_off = len(found) - len(
        writer.promised
    )  # durable, but the line was not written before the kill
    assert 0 <= promises_cut_off <= 3 * 4


def test_a_writer_that_stalls_comes_back_once(broker: str, tmp_path: Path) -> None:
    """SIGSTOP for longer than the transaction timeout, perhaps within a commit: it goes on
    afterwards, fenced by nobody, each event once.
    """
    writer = Writer(tmp_path, "stalled-writer", broker)
    writer.begin(400)
    writer.listen(60)
    writer.process.send_signal(signal.SIGSTOP)
    CLOCK.sleep(6.5)
    writer.process.send_signal(signal.SIGCONT)
    assert writer.end() == 0
    assert journal(broker, writer.run) == writer.promised


def test_a_stopped_writer_that_was_replaced_stays_out(broker: str, tmp_path: Path) -> None:
    """A writer that sleeps while another machine takes over the run is fenced when it wakes: it
    seals its outbox and adds nothing.
    """
    zombie = Writer(tmp_path / "here", "replaced-writer", broker)
    zombie.begin(ENDLESS)
    zombie.listen(30)
    zombie.process.send_signal(signal.SIGSTOP)
    other = Writer(tmp_path / "there", "replaced-writer", broker)
    program = (
        "import sys; from pathlib import Path; from esper.clock import SystemClock; from "
        "esper.oona.bus.kafka import KafkaBus\n"
        "from esper.oona.durable.outbox import Outbox; from esper.oona.durable.start "
        "import start; from tests.unit.oona.samples import frame\n"
        "outbox = Outbox.open(Path(sys.argv[1]), clock=SystemClock()); bus = "
        "KafkaBus(sys.argv[2])\n"
        "start(outbox, bus, clock=SystemClock()); outbox.append(frame(outbox.run_id, "
        "outbox.next_sequence, 2, writer='there'))\n"
        "start(outbox, bus, clock=SystemClock())"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(other.outbox), broker],
        check=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    taken_over = journal(broker, zombie.run)
    zombie.process.send_signal(signal.SIGCONT)
    assert zombie.end() != 0
    assert (zombie.outbox / "sealed").exists()
    assert journal(broker, zombie.run) == taken_over


@pytest.fixture
def node(tmp_path: Path) -> BrokerNode:
    """A broker of this test's own, which may be killed."""
    with PortClaims() as claims:
        return BrokerNode(
            tmp_path / "kafka",
            claims.choose(salt=f"{tmp_path} broker", preferred=()),
            claims.choose(salt=f"{tmp_path} controller", preferred=()),
        )


@pytest.mark.slow
def test_a_broker_killed_during_a_drain_loses_and_doubles_nothing(
    node: BrokerNode, tmp_path: Path
) -> None:
    """The writer goes on without a broker; when it is back, everything is in the journal, once."""
    classpath = jars.kafka(lambda _: None)
    writer = Writer(tmp_path, "brokerless-writer", node.bootstrap)
    chance = random.Random(7)  # noqa: S311 - the same
    total, cluster = 500, "ZXNwZXItdGVzdC1jaGFvcw"
    with running_broker(node, classpath, cluster_id=cluster, clock=CLOCK) as broker:
        topic_creation.ensure(node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
        writer.begin(total)
        writer.listen(60 + chance.randint(0, 60))
        broker.kill()
        broker.wait()
        writer.listen(50)  # goes on while there is none
        durable = sum(
            len(one.frame.events)
            for path in writer.outbox.glob("*.frames")
            for one in scan(path, path.read_bytes())
        )
        assert durable >= 50
        assert next(writer.outbox.glob("*.frames")).read_bytes().startswith(MAGIC)
    with revived_broker(node, cluster_id=cluster):
        assert writer.end() == 0
        found = journal(node.bootstrap, writer.run)
    assert found == writer.promised
    assert len(found) >= total
