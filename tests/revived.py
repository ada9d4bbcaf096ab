"""An embedded broker that was killed and is started again, as a stack does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

from esper.clock import SystemClock
from esper.config import KafkaSettings
from esper.oona.admin import hanging, topic_creation
from esper.oona.bus.kafka import KafkaBus
from esper.stack.embedded import jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from tests.waiting import PATIENCE_S

_CLOCK = SystemClock()


@contextmanager
def revived_broker(node: BrokerNode, **options: Any) -> Iterator[Popen[bytes]]:
    """It runs again, and what it had decided when it was killed is ended in every partition.

    The supervisor of a stack does the same. A broker without it hides a partition for ever, about
    once in sixty kills within a commit: see `esper.oona.admin.hanging`.
    """
    with running_broker(node, jars.kafka(lambda _: None), clock=_CLOCK, **options) as process:
        known = KafkaBus(node.admin, patience=PATIENCE_S).admin().list_topics(timeout=PATIENCE_S)
        counts = {
            name: len(known.topics[name].partitions)
            for name in topic_creation.wanted(KafkaSettings())
            if name in known.topics
        }
        hanging.mend(node.admin, counts, clock=_CLOCK, timeout_s=PATIENCE_S)
        yield process
