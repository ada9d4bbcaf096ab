"""An embedded broker as a stack has it, secured, without the stack around it: shared by the tests
of who may do what on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from esper.clock import SystemClock
from esper.config import Settings
from esper.oona.admin import topic_creation
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.stack.embedded import aot, jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.securing import secure
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims

CLUSTER = "ZXNwZXItdGVzdC1icm9rZQ"


@dataclass(frozen=True)
class Secured:
    """One such broker that runs, and the installation whose keys it knows."""

    settings: Settings
    node: BrokerNode
    process: Popen[bytes]

    def access(self, principal: str) -> Access:
        """As a part of this installation comes."""
        return Access.of(self.settings, principal, bootstrap=self.node.bootstrap)

    def bus(self, principal: str, *, patience: float = 20.0) -> KafkaBus:
        """The bus of a principal."""
        return KafkaBus(self.access(principal), patience=patience)


def node_at(home: Path, claims: PortClaims, *, secured: bool = True) -> BrokerNode:
    """The broker of an installation, where its stack would have it."""
    ports = [
        claims.choose(salt=f"{home} {name}", preferred=()) for name in ("broker", "controller")
    ]
    return BrokerNode(home / "stack" / "kafka", ports[0], ports[1], secured=secured)


@contextmanager
def started(node: BrokerNode) -> Iterator[Popen[bytes]]:
    """It runs, and nobody has told it of principals."""
    classpath = jars.kafka(lambda _: None)
    with running_broker(
        node,
        classpath,
        cluster_id=CLUSTER,
        clock=SystemClock(),
        java_options=aot.java_options(classpath),
    ) as process:
        yield process


@contextmanager
def secured_broker(home: Path, *, with_topics: bool = True) -> Iterator[Secured]:
    """It runs as the supervisor leaves it: principals, rights and topics are there."""
    settings = Settings(home=home)
    with PortClaims() as claims:
        node = node_at(home, claims)
        with started(node) as process:
            secure(node, settings.kafka_keys_dir)
            if with_topics:
                topic_creation.ensure(node.admin, settings.kafka)
            yield Secured(settings, node, process)
