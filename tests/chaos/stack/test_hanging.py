"""Transactions that Kafka has decided and left open: each is ended as it was decided, by the start
of the stack's broker and by `esper topics apply`.

Kafka leaves one open about once in sixty kills within milliseconds of a commit. Here its marker is
cut off the partition's file while the broker is down, which leaves the same: the coordinator knows
that the transaction is complete, and the partition does not.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from esper import stack
from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import UnavailableError
from esper.events.codec import Message
from esper.oona.admin import hanging, topic_creation
from esper.oona.admin.hanging import Hanging
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.journal_reader import JOURNAL, read
from esper.stack.embedded.broker import BrokerNode
from esper.stack.launches import broker_node
from tests.clusters.commands import esper, said
from tests.securedbroker import Secured, secured_broker, started
from tests.stackfixtures import access, bring_up, now, part
from tests.waiting import PATIENCE_S, eventually, until

CLOCK = SystemClock()
RUN = "hangs"
_HEAD = struct.Struct(">qi")
"""Of a batch of records: its first offset, and how many bytes follow."""


def written(bus: KafkaBus, *values: bytes) -> None:
    """Events of the run's journal, a transaction each."""
    with bus.journal_producer(run_id=RUN) as writer:
        writer.begin(PATIENCE_S)
        for value in values:
            writer.commit([Message(JOURNAL, RUN.encode(), value, ())])


def taken_back(cluster: Access, value: bytes) -> None:
    """An event in a transaction that is aborted."""
    producer = Producer(
        {
            **cluster.librdkafka(),
            "transactional.id": RUN,
            "partitioner": "murmur2_random",
            "log_level": 0,
        }
    )
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(JOURNAL, value, RUN.encode())
    assert producer.flush(PATIENCE_S) == 0
    producer.abort_transaction(PATIENCE_S)


def ended(bus: KafkaBus) -> bool:
    """Whether the marker of the last transaction is written."""
    with bus.reader([JOURNAL], start="end") as reader:
        return reader.stable_end() == reader.log_end()


def cut(node: BrokerNode, number: int) -> None:
    """Cut the last batch, a marker, off a partition of the journal of a broker that is down."""
    folder = node.log_dir / f"{JOURNAL}-{number}"
    path = folder / f"{0:020d}.log"
    content, at, before = path.read_bytes(), 0, 0
    while at + _HEAD.size <= len(content) and (size := _HEAD.unpack_from(content, at)[1]):
        before, at = at, at + _HEAD.size + size
    os.truncate(path, before)
    for known in (*folder.glob("*.snapshot"), *node.log_dir.glob("*-offset-checkpoint")):
        known.unlink()  # what the broker would know of the marker from elsewhere


def values(bus: KafkaBus, patience: float = PATIENCE_S) -> list[bytes]:
    """What a reader sees of the journal."""
    return [received.value for received in read(bus, RUN, clock=CLOCK, patience=patience)]


@pytest.fixture
def hurt(tmp_path: Path) -> Iterator[Secured]:
    """A broker that is up, with everything that a stack gives it, for a test to hurt."""
    with secured_broker(tmp_path / "home") as one:
        yield one


@pytest.mark.parametrize("committed", [True, False])
def test_it_is_named_and_ended_as_it_was_decided(hurt: Secured, *, committed: bool) -> None:
    """The reader hangs with a sentence that names the remedy, `diff` names the transaction, `apply`
    ends it: what was committed is seen, what was aborted is not.
    """
    bus, node = hurt.bus("trainer"), hurt.node
    number = bus.partition_of(JOURNAL, RUN.encode())
    written(bus, b"1", *([b"2"] if committed else []))
    if not committed:
        taken_back(hurt.access("trainer"), b"2")
    until(lambda: ended(hurt.bus("viewer")))
    counts = {
        name: partitions
        for name, (partitions, _) in topic_creation.wanted(hurt.settings.kafka).items()
    }
    assert hanging.found(node.admin, counts, clock=CLOCK, timeout_s=PATIENCE_S) == []
    hurt.process.kill()
    hurt.process.wait()
    cut(node, number)
    with started(node):
        viewer = hurt.bus("viewer")
        with pytest.raises(
            UnavailableError,
            match=(
                f"a transaction is open in {JOURNAL}, partition {number}, since offset "
                "2.*esper topics apply"
            ),
        ):
            # from its last progress on: a broker that has just started on a busy machine takes
            # seconds before the first message, and the reader would blame that
            values(viewer, patience=10.0)
        owner = hurt.access("esper").kafka
        environment = {
            "ESPER_KAFKA__BOOTSTRAP": node.bootstrap,
            "ESPER_KAFKA__SECURITY_PROTOCOL": owner.security_protocol,
            "ESPER_KAFKA__SASL_MECHANISM": owner.sasl_mechanism,
            "ESPER_KAFKA__SASL_USERNAME": "{principal}",
            "ESPER_KAFKA__SASL_PASSWORD_FILE": str(
                hurt.settings.kafka_keys_dir / "{principal}.password"
            ),
        }
        home = hurt.settings.home.parent / "administrator"
        differs = said(esper(home, environment, "topics", "diff", "--json"), 1)["differs"]
        (named,) = (one for one in differs if one["kind"] not in {"right", "quota"})
        assert (named["kind"], named["name"]) == ("transaction", f"{JOURNAL} {number} {RUN}")
        assert (named["found"], named["wanted"]) == (
            "open since offset 2",
            "committed" if committed else "aborted",
        )
        assert said(esper(home, environment, "topics", "apply", "--json"))["changed"] == differs
        assert values(viewer) == ([b"1", b"2"] if committed else [b"1"])
        written(hurt.bus("trainer"), b"3")  # and its writer goes on
        assert values(viewer)[-1] == b"3"


def test_a_transaction_at_work_is_left_alone(hurt: Secured) -> None:
    """Neither named nor ended, however often it is looked for."""
    producer = Producer(
        {
            **hurt.access("trainer").librdkafka(),
            "transactional.id": RUN,
            "partitioner": "murmur2_random",
            "log_level": 0,
        }
    )
    producer.init_transactions(PATIENCE_S)
    written(hurt.bus("trainer"), b"1")  # takes over: the next one begins after an end
    producer = Producer(
        {
            **hurt.access("trainer").librdkafka(),
            "transactional.id": RUN,
            "partitioner": "murmur2_random",
            "log_level": 0,
        }
    )
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(JOURNAL, b"2", RUN.encode())
    assert producer.flush(PATIENCE_S) == 0
    counts = {JOURNAL: topic_creation.wanted(hurt.settings.kafka)[JOURNAL][0]}
    assert hanging.mend(hurt.node.admin, counts, clock=CLOCK, timeout_s=PATIENCE_S) == []
    producer.commit_transaction(PATIENCE_S)
    assert values(hurt.bus("viewer")) == [b"1", b"2"]


@pytest.mark.parametrize("killed", ["broker", "supervisor"])
def test_the_stack_ends_it_when_its_broker_comes_back(tmp_path: Path, killed: str) -> None:
    """The broker alone that the supervisor starts again, and the whole stack at its next start."""
    settings = Settings(home=tmp_path / "home")
    try:
        bring_up(settings)
        bus = KafkaBus(access(settings, "trainer"))
        number = bus.partition_of(JOURNAL, RUN.encode())
        written(bus, b"1", b"2")
        until(lambda: ended(KafkaBus(access(settings))))
        state = now(settings)
        node = broker_node(settings.stack_dir, state.ports)
        broker = part(settings, "broker").process
        assert broker is not None
        if killed == "broker":
            os.kill(state.supervisor.pid, signal.SIGSTOP)  # does not start it before it is hurt
            os.kill(broker.pid, signal.SIGKILL)
            assert eventually(lambda: not broker.lives() or zombie(broker.pid))
            cut(node, number)
            os.kill(state.supervisor.pid, signal.SIGCONT)
            assert eventually(lambda: part(settings, "broker").restarts == 1)
            stack.wait_ready(settings, ["broker"], PATIENCE_S)
        else:
            os.kill(state.supervisor.pid, signal.SIGKILL)
            assert eventually(lambda: not broker.lives())
            cut(node, number)
            bring_up(settings)
        until(lambda: ended(KafkaBus(access(settings))))
        assert values(KafkaBus(access(settings))) == [b"1", b"2"]
        assert (
            f"The transaction of {RUN} that Kafka has committed is open"
            in (settings.stack_dir / "logs" / "supervisor.log").read_text()
        )
    finally:
        stack.down(settings)


def zombie(pid: int) -> bool:
    """Whether a process has ended, and its parent has not asked how."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_it_says_what_it_is() -> None:
    """One sentence for people."""
    one = Hanging(JOURNAL, 3, 14, 1000, 2, 0, RUN, committed=True)
    assert str(one) == (
        f"The transaction of {RUN} that Kafka has committed is open in {JOURNAL}, "
        "partition 3, since offset 14: what follows is hidden from readers."
    )
