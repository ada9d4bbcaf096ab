"""How the supervisor starts and judges the broker and each part."""

from __future__ import annotations

import base64
import hashlib
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from esper.config import Settings
from esper.errors import EsperError
from esper.logs import WHERE
from esper.service.transport.sockets import Listening
from esper.stack.embedded import aot, broker, jars
from esper.stack.processes.child import PROBE_TIMEOUT_S, Answer, Death, Launch, health
from esper.stack.processes.parts import Part

_log = logging.getLogger("esper.stack")
_SILENCE_S = 20.0
_START_S = 300.0  # after kill -9 it reads the last segment of each partition again


def broker_node(folder: Path, ports: Mapping[str, int]) -> broker.BrokerNode:
    """The embedded broker of the stack in `folder`: always secured."""
    return broker.BrokerNode(folder / "kafka", ports["broker"], ports["controller"], secured=True)


def broker_launch(folder: Path, ports: Mapping[str, int], environment: Mapping[str, str]) -> Launch:
    """The embedded broker of the stack in `folder`, with the AOT cache as long as that does no
    harm.
    """
    node = broker_node(folder, ports)
    classpath = jars.kafka(_log.info)

    def arguments() -> Sequence[str]:
        options = aot.java_options(classpath)
        broker.prepare(node, classpath, cluster_id=_cluster_id(folder), java_options=options)
        return broker.command(node, classpath, java_options=options)

    def probe() -> Answer:
        return "ready" if broker.answers(node.bootstrap, timeout=PROBE_TIMEOUT_S) else "silent"

    def explain(death: Death) -> EsperError | None:
        known = broker.explain(node, death.tail)
        # somebody ended it: that says nothing about the cache
        by_hand = death.code in {-signal.SIGKILL, -signal.SIGTERM}
        if known is None and not death.was_ready and not by_hand and aot.discard(classpath):
            _log.warning("the AOT cache was deleted: the broker did not start with it")
        return known

    return Launch(
        name="broker",
        port=node.port,
        log=folder / "logs" / "broker.log",
        arguments=arguments,
        environment=broker.environment(environment),
        folder=node.folder,
        probe=probe,
        silence_s=_SILENCE_S,
        start_s=_START_S,
        explain=explain,
        tells_by=WHERE,
    )


def part_launch(
    part: Part, listening: Listening, settings: Settings, environment: Mapping[str, str]
) -> Launch:
    """One part of the stack, which serves the sockets `listening`: every life of it
    inherits them.
    """
    return Launch(
        name=part.name,
        port=listening.port,
        log=settings.stack_dir / "logs" / f"{part.name}.log",
        arguments=lambda: part.command,
        environment={**environment, **listening.handed()},
        folder=None,
        probe=lambda: health(settings, part.name, listening.port),
        silence_s=part.silence_s,
        start_s=part.start_s,
        explain=lambda _: None,
        descriptors=listening.descriptors,
        tells_by=WHERE,
        on_demand=part.on_demand,
    )


def _cluster_id(folder: Path) -> str:
    """A new cluster's id, from where it is: Kafka wants 16 bytes as 22 characters that do not begin
    with a dash.
    """
    digest = hashlib.sha256(str(folder).encode()).digest()[:16]
    return "e" + base64.urlsafe_b64encode(digest).decode()[1:22]
