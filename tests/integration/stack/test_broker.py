"""The embedded broker: what its folder survives, and what it says when it cannot start."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from esper.clock import SystemClock
from esper.errors import CorruptError, StorageFullError, UnavailableError
from esper.stack.embedded import jars
from esper.stack.embedded.broker import BrokerNode, answers, prepare
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import HOST, PortClaims

CLUSTER = "ZXNwZXItdGVzdC1icm9rZQ"


@pytest.fixture(scope="module")
def classpath() -> tuple[Path, ...]:
    """The locked Kafka."""
    return jars.kafka(lambda _: None)


@pytest.fixture(scope="module")
def formatted(tmp_path_factory: pytest.TempPathFactory, classpath: tuple[Path, ...]) -> Path:
    """The folder of a broker that was prepared although somebody had killed an earlier formatting
    in the middle.
    """
    folder = tmp_path_factory.mktemp("formatted") / "with space, comma and é"
    (folder / "formatting").mkdir(parents=True)
    (folder / "formatting" / "meta.properties").write_text("half")
    (folder / "data").mkdir()
    prepare(BrokerNode(folder, 1, 2), classpath, cluster_id=CLUSTER)
    return folder


def node_in(formatted: Path, tmp_path: Path) -> BrokerNode:
    """A copy of the formatted folder, with ports of its own."""
    with PortClaims() as claims:
        ports = [claims.choose(salt=f"{tmp_path} {name}", preferred=()) for name in "ab"]
    return BrokerNode(
        Path(shutil.copytree(formatted, tmp_path / formatted.name)), ports[0], ports[1]
    )


def test_the_shared_broker_answers_a_client(broker: str) -> None:
    """The fixture of all tests is one real node, and our own probe agrees with a client."""
    assert answers(broker, timeout=5)
    assert len(AdminClient({"bootstrap.servers": broker}).list_topics(timeout=10).brokers) == 1


def test_nothing_answers_where_no_broker_is() -> None:
    """Neither a closed port nor a server that speaks something else is taken for a broker."""
    assert not answers(f"{HOST}:1", timeout=1)
    with socket.create_server((HOST, 0)) as mute:
        assert not answers(f"{HOST}:{mute.getsockname()[1]}", timeout=0.2)


def test_an_interrupted_formatting_is_done_again(formatted: Path) -> None:
    """The folder is whole, and nothing half made is left."""
    assert f"cluster.id={CLUSTER}" in (formatted / "data" / "meta.properties").read_text()
    assert not (formatted / "formatting").exists()


def test_a_port_in_use_is_named_with_its_holder(
    formatted: Path, tmp_path: Path, classpath: tuple[Path, ...]
) -> None:
    """Kafka's stack trace becomes one sentence, in a folder whose name needs escaping
    everywhere.
    """
    node = node_in(formatted, tmp_path)
    with (
        socket.create_server((HOST, node.port)),
        pytest.raises(
            UnavailableError,
            match=rf"port {node.port} for the broker is in use by .*\(pid \d+\): end that program",
        ),
        running_broker(node, classpath, cluster_id=CLUSTER, clock=SystemClock()),
    ):
        pytest.fail("it started")


def test_no_room_is_refused_before_anything_is_written(
    tmp_path: Path, classpath: tuple[Path, ...]
) -> None:
    """A broker that fills the disk up would take everything else with it."""
    with pytest.raises(StorageFullError, match=r"MiB are free .*free some, or set ESPER_HOME"):
        prepare(
            BrokerNode(tmp_path / "node", 1, 2), classpath, cluster_id=CLUSTER, room_bytes=2**60
        )
    assert list((tmp_path / "node").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda data: (data / "meta.properties").write_text("version=1"),
            "is no complete Kafka storage: move it away",
        ),
        (
            lambda data: (data / "bootstrap.checkpoint").unlink(),
            "is no complete Kafka storage: move it away",
        ),
        (
            lambda data: (data / "system.events.run-0").mkdir(),
            "__cluster_metadata-0 is lost or damaged, and Kafka would delete the 1 partitions",
        ),
    ],
)
def test_a_damaged_folder_is_refused_before_kafka_can_make_it_worse(
    formatted: Path,
    tmp_path: Path,
    classpath: tuple[Path, ...],
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    """Partitions whose metadata log is lost would be deleted as strays."""
    node = node_in(formatted, tmp_path)
    damage(node.log_dir)
    with pytest.raises(CorruptError, match=sentence):
        prepare(node, classpath, cluster_id=CLUSTER)


def test_a_folder_of_another_broker_is_refused_by_kafka_and_said_in_one_sentence(
    formatted: Path, tmp_path: Path, classpath: tuple[Path, ...]
) -> None:
    """What only Kafka can find out is read from its log."""
    node = node_in(formatted, tmp_path)
    meta = node.log_dir / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=2"))
    with (
        pytest.raises(CorruptError, match="belongs to another broker"),
        running_broker(node, classpath, cluster_id=CLUSTER, clock=SystemClock()),
    ):
        pytest.fail("it started")
