"""A real Kafka cluster on the loopback: one controller and three brokers, SASL_SSL for clients,
mutual TLS inside, ACLs, and the faults of a real one.

Every process is a Java process of its own on the jars that Esper locks. Brokers speak to each other
and to the controller over mutual TLS, so that no fault of the clients' listener (an expired
certificate, a credential that changes) reaches them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import jwt
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.asymmetric import rsa

from esper.clock import SystemClock
from esper.oona.admin.kafka_requests import ask
from esper.stack.embedded import aot, broker, jars
from esper.stack.embedded.java import java
from esper.stack.processes.leash import Leash
from esper.stack.processes.ports import HOST, PortClaims
from tests import certificates

CLOCK: Final = SystemClock()
BROKERS: Final = (1, 2, 3)
CONTROLLER: Final = 100
CLUSTER_ID: Final = "ZXNwZXItdGVzdC10aHJlZQ"
PLAIN: Final = {"plain-viewer": "of-plain-viewer"}
"""Principals of SASL/PLAIN, which stand in the brokers' settings."""
AUDIENCE: Final = "kafka"
_HEAP: Final = "-Xmx200m"
_START_S: Final = 300.0  # a limit for what hangs
_ANSWER_S: Final = 10.0
_PREFERRED: Final = 0
_LOG: Final = "log4j2.properties"

DEPLOYED: Final = Path(__file__).parents[2] / "deploy" / "kafka" / "server.properties"
"""The settings that this project gives to brokers of others: the cluster runs with them, and with
what follows.
"""
_HERE: Final[Mapping[str, str]] = {
    "ssl.keystore.location": "inside.pem",
    "ssl.truststore.location": "root.pem",
    "listener.name.client.ssl.keystore.location": "client.pem",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    # a dead broker is noticed soon, and one that waits for a busy machine's core is not taken for
    # dead
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "auto.leader.rebalance.enable": "false",  # leaders move when a test says so
    "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    # two more ways to come, beside SCRAM
    "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
    "listener.name.client.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
    )
    + " ".join(f'user_{name}="{password}"' for name, password in PLAIN.items())
    + ";",
    "listener.name.client.oauthbearer.sasl.jaas.config": (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
    ),
    "listener.name.client.oauthbearer.sasl.server.callback.handler.class": (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
    ),
    "listener.name.client.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
}
_CONTROLLERS: Final = ("listener.name.client.", "listener.name.internal.", "inter.broker.", "sasl.")
"""Settings that a controller alone has no listener for."""


class ElectLeadersResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    """Which elections failed. confluent-kafka 2.16 has the request, and raises SystemError for
    every call of it.
    """

    API_KEY = 43
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "results",
            Array(
                ("topic", String()),
                (
                    "partitions",
                    Array(("partition", Int32), ("error_code", Int16), ("message", String())),
                ),
            ),
        ),
    )


class ElectLeadersRequest(RequestStruct):  # type: ignore[misc]  # the same
    """Make preferred replicas leaders: of all partitions where none are named."""

    API_KEY = 43
    API_VERSION = 1
    RESPONSE_TYPE = ElectLeadersResponse
    SCHEMA = Schema(
        ("election_type", Int8),
        ("topic_partitions", Array(("topic", String()), ("partitions", Array(Int32)))),
        ("timeout_ms", Int32),
    )


@dataclass
class Member:
    """One process of the cluster: its node id, folder, ports by listener, and whether it runs."""

    node: int
    folder: Path
    ports: Mapping[str, int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.folder / "log"

    @property
    def alive(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Cluster:
    """The cluster, and what may happen to it. Node ids of brokers are 1, 2 and 3."""

    folder: Path
    leash: Leash
    root: certificates.Pair
    members: dict[int, Member]
    issuer: rsa.RSAPrivateKey
    passwords: dict[str, str] = field(default_factory=dict)
    _admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """host:port of every broker, for clients."""
        return ",".join(f"{HOST}:{self.members[node].ports['CLIENT']}" for node in BROKERS)

    @property
    def ca(self) -> Path:
        """The certificate of the authority, which clients trust."""
        return self.folder / "root.pem"

    @property
    def admin(self) -> AdminClient:
        """A client with all rights, which comes by the brokers' own listener."""
        if self._admin is None:
            self._admin = AdminClient(self.inside("admin"))
        return self._admin

    def inside(self, name: str) -> dict[str, Any]:
        """Settings of librdkafka for the brokers' own listener with a certificate in this name."""
        path = self.folder / f"{name}.pem"
        if not path.exists():
            path.write_bytes(certificates.pem(name, self.root))
        return {
            "bootstrap.servers": ",".join(
                f"{HOST}:{self.members[node].ports['INTERNAL']}" for node in BROKERS
            ),
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca),
            "ssl.certificate.location": str(path),
            "ssl.key.location": str(path),
            "log_level": 0,
        }

    def raw(self, name: str) -> dict[str, Any]:
        """The same for aiokafka."""
        known = self.inside(name)
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(known["ssl.certificate.location"])
        return {
            "bootstrap_servers": known["bootstrap.servers"],
            "security_protocol": "SSL",
            "ssl_context": context,
        }

    def client(self, name: str) -> dict[str, Any]:
        """Settings of librdkafka for a principal with a SCRAM credential."""
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": name,
            "sasl.password": self.passwords[name],
            "ssl.ca.location": str(self.ca),
            "log_level": 0,
        }

    def administrator(self) -> dict[str, str]:
        """Environment of Esper's commands for one who may do everything, by a certificate."""
        known = self.inside("admin")
        return {
            "ESPER_KAFKA__BOOTSTRAP": known["bootstrap.servers"],
            "ESPER_KAFKA__SECURITY_PROTOCOL": "SSL",
            "ESPER_KAFKA__CA": str(self.ca),
            "ESPER_KAFKA__CERTIFICATE": known["ssl.certificate.location"],
            "ESPER_KAFKA__PRIVATE_KEY": known["ssl.key.location"],
            "ESPER_KAFKA__REPLICATION": "3",
        }

    def parts(self, passwords: Path, *, user: str = "{principal}") -> dict[str, str]:
        """Environment of Esper's parts and commands, each by the password of its principal in
        `passwords`; `user` to come all as one.
        """
        return {
            "ESPER_KAFKA__BOOTSTRAP": self.bootstrap,
            "ESPER_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "ESPER_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "ESPER_KAFKA__SASL_USERNAME": user,
            "ESPER_KAFKA__SASL_PASSWORD_FILE": str(passwords / f"{user}.password"),
            "ESPER_KAFKA__CA": str(self.ca),
            "ESPER_KAFKA__REPLICATION": "3",
        }

    def credential(self, name: str, password: str) -> None:
        """Give `name` this password; an earlier one is void from now on."""
        wanted = UserScramCredentialUpsertion(
            name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        self._done(self.admin.alter_user_scram_credentials([wanted]).values())
        self.passwords[name] = password

    def token(self, name: str, *, seconds: int = 3600) -> str:
        """A token of the installation's issuer, for OAUTHBEARER."""
        now = CLOCK.now_us() // 1_000_000
        claims = {
            "sub": name,
            "aud": AUDIENCE,
            "iss": "tests",
            "iat": now - 1,
            "exp": now + seconds,
        }
        return jwt.encode(claims, self.issuer, algorithm="RS256", headers={"kid": "tests"})

    def allow(
        self, principal: str, kind: ResourceType, name: str, *operations: AclOperation
    ) -> None:
        """Let a principal do these operations on the resources whose names begin with `name`."""
        rules = [
            AclBinding(
                kind,
                name,
                ResourcePatternType.PREFIXED,
                f"User:{principal}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        self._done(self.admin.create_acls(rules).values())

    def kill(self, *nodes: int) -> None:
        """Send SIGKILL, and wait until they are gone."""
        for node in nodes:
            process = self.members[node].process
            assert process is not None
            process.kill()
            process.wait()
            self.leash.drop(process.pid)

    def start(self, *nodes: int) -> None:
        """Start processes that do not run. Returns at once; `settled` waits."""
        for node in nodes:
            member = self.members[node]
            assert not member.alive
            arguments = _java(self.folder, "kafka.Kafka", "server.properties")
            with member.log.open("ab") as log:
                member.process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=member.folder,
                    env=broker.environment(os.environ),
                    start_new_session=True,
                )
            self.leash.hold(member.process.pid)

    def present(self, client: AdminClient | None = None) -> set[int]:
        """Node ids of the brokers that the cluster counts as alive."""
        try:
            return set((client or self.admin).list_topics(timeout=_ANSWER_S).brokers)
        except KafkaException:
            return set()

    def leaders(self, *topics: str) -> dict[tuple[str, int], int]:
        """The leader of each partition, -1 for none; of all topics where none are named."""
        found = self.admin.list_topics(timeout=_ANSWER_S).topics
        return {
            (name, number): part.leader
            for name, topic in found.items()
            if not topics or name in topics
            for number, part in topic.partitions.items()
        }

    def in_sync(self) -> bool:
        """Whether three brokers answer, and every partition has a leader and three replicas in
        step.
        """
        try:
            found = self.admin.list_topics(timeout=_ANSWER_S)
        except KafkaException:
            return False
        parts = [part for topic in found.topics.values() for part in topic.partitions.values()]
        return set(found.brokers) == set(BROKERS) and all(
            part.leader >= 0 and len(part.isrs) == len(part.replicas) for part in parts
        )

    def settled(self, timeout: float = _START_S) -> None:
        """Wait until the cluster is whole."""
        self.until(self.in_sync, "three brokers in step", timeout)

    def until(self, condition: Callable[[], object], what: str, timeout: float = _START_S) -> None:
        """Wait for a condition; without it the test fails with the ends of the logs."""
        deadline = CLOCK.monotonic() + timeout

        def met() -> bool:
            try:
                return bool(condition())
            except (
                KafkaException
            ):  # a client that was with the broker that has died finds another one
                return False

        while not met():
            ends = {
                node: member.log.read_text(errors="replace")[-1_500:]
                for node, member in self.members.items()
            }
            assert CLOCK.monotonic() < deadline, f"no {what} after {timeout:.0f} s: {ends}"
            CLOCK.sleep(0.1)

    def back_to_preferred(self) -> int:
        """Move each partition's leader to its preferred replica; how many moved.

        Needs a cluster that is whole.
        """
        before = self.leaders()
        found = ask(
            self.raw("admin"),
            ElectLeadersRequest,
            _PREFERRED,
            None,
            round(_ANSWER_S * 1000),
            timeout_s=_ANSWER_S,
        )
        assert found.error_code == 0
        after = self.leaders()
        return sum(before[pair] != after.get(pair) for pair in before)

    def certificate(self, *nodes: int, expired: bool = False) -> None:
        """Replace the certificate that these brokers show to clients, while they run."""
        for node in nodes:
            member = self.members[node]
            path = member.folder / f"client-{len(list(member.folder.glob('client*.pem')))}.pem"
            path.write_bytes(certificates.pem("broker", self.root, expired=expired))
            entry = ConfigEntry(
                "listener.name.client.ssl.keystore.location",
                path.name,
                incremental_operation=AlterConfigOpType.SET,
            )
            resource = ConfigResource(ResourceType.BROKER, str(node), incremental_configs=[entry])
            self._done(
                self.admin.incremental_alter_configs([resource], request_timeout=_ANSWER_S).values()
            )

    def shown(self, node: int) -> str:
        """What a client says to the certificate of a broker, or to a broker that does not answer.

        Empty if it takes it.
        """
        context = ssl.create_default_context(cafile=self.ca)
        try:
            with socket.create_connection(
                (HOST, self.members[node].ports["CLIENT"]), timeout=_ANSWER_S
            ) as connection:
                context.wrap_socket(connection, server_hostname=HOST).close()
        except OSError as error:  # TLS errors are of this kind
            return str(error)
        return ""

    def _done(self, futures: Iterable[Any]) -> None:
        for future in futures:
            future.result(_ANSWER_S)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """The cluster, whole and with no topics, for as long as a block runs.

    It dies with this process.
    """
    root = certificates.authority()
    issuer = rsa.generate_private_key(65537, 2048)
    certificates.write(folder, root)
    (folder / "jwks.json").write_text(_jwks(issuer))
    with PortClaims() as claims, Leash() as leash:
        names = {CONTROLLER: ("CONTROLLER",), **dict.fromkeys(BROKERS, ("CLIENT", "INTERNAL"))}
        members = {
            node: Member(
                node,
                folder / f"node-{node}",
                {
                    name: claims.choose(salt=f"{folder} {node} {name}", preferred=())
                    for name in listeners
                },
            )
            for node, listeners in names.items()
        }
        cluster = Cluster(folder, leash, root, members, issuer)
        for member in members.values():
            _prepare(cluster, member)
        try:
            cluster.start(*BROKERS)
            _format(members[CONTROLLER], folder)
            cluster.start(CONTROLLER)
            cluster.settled()
            yield cluster
        finally:
            _end([member.process for member in members.values() if member.process is not None])


def _prepare(cluster: Cluster, member: Member) -> None:
    folder = member.folder
    folder.mkdir()
    shutil.copyfile(cluster.ca, folder / "root.pem")
    (folder / "inside.pem").write_bytes(certificates.pem("broker", cluster.root))
    (folder / "client.pem").write_bytes(certificates.pem("broker", cluster.root))
    with as_file(files("esper.stack").joinpath(_LOG)) as logging:
        shutil.copyfile(logging, folder / _LOG)
    listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in member.ports.items())
    controller = cluster.members[CONTROLLER].ports["CONTROLLER"]
    values = {
        **deployed(),
        **_HERE,
        "node.id": str(member.node),
        "listeners": listeners,
        "controller.quorum.voters": f"{CONTROLLER}@{HOST}:{controller}",
        "log.dirs": "data",
    }
    if member.node == CONTROLLER:
        values = {
            name: value for name, value in values.items() if not name.startswith(_CONTROLLERS)
        } | {"process.roles": "controller"}
    else:
        jwks = (cluster.folder / "jwks.json").as_uri()
        values |= {
            "process.roles": "broker",
            "advertised.listeners": listeners,
            "listener.name.client.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": jwks,
        }
        (folder / "data").mkdir()
        # what `kafka-storage format` writes for a broker: 1 s of Java for five lines
        directory = base64.urlsafe_b64encode(b"esper-directory" + bytes([member.node])).decode()[
            :22
        ]
        meta = {
            "version": "1",
            "cluster.id": CLUSTER_ID,
            "node.id": str(member.node),
            "directory.id": directory,
        }
        _write(folder / "data" / "meta.properties", meta)
    _write(folder / "server.properties", values)


def deployed() -> dict[str, str]:
    """The settings of `deploy/kafka/server.properties`."""
    lines = (line.strip() for line in DEPLOYED.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _format(controller: Member, folder: Path) -> None:
    done = subprocess.run(
        _java(
            folder, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties"
        ),
        capture_output=True,
        text=True,
        timeout=_START_S,
        check=False,
        cwd=controller.folder,
        env=broker.environment(os.environ),
    )
    assert done.returncode == 0, done.stderr


def _write(path: Path, values: Mapping[str, str]) -> None:
    path.write_text(
        "".join(f"{name}={value}\n" for name, value in values.items()), encoding="ascii"
    )


def _java(folder: Path, *arguments: str) -> Sequence[str]:
    classpath = jars.kafka(lambda _: None)
    options = [option for option in broker.JVM_OPTIONS if not option.startswith("-Xmx")]
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={(folder / 'jwks.json').as_uri()}"
    logging = f"-Dlog4j2.configurationFile={_LOG}"
    return (
        str(java()),
        _HEAP,
        *options,
        *aot.java_options(classpath),
        allowed,
        logging,
        "-cp",
        os.pathsep.join(map(str, classpath)),
        *arguments,
    )


def _jwks(issuer: rsa.RSAPrivateKey) -> str:
    key = jwt.algorithms.RSAAlgorithm.to_jwk(issuer.public_key(), as_dict=True)
    return json.dumps({"keys": [{**key, "kid": "tests", "use": "sig", "alg": "RS256"}]})


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
