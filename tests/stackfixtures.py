"""One real broker for all tests of a session that need one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import pytest

from esper.clock import SystemClock
from esper.config import KafkaSettings
from esper.stack import jars
from esper.stack.broker import Node
from esper.stack.ports import PortClaims
from esper.stack.solo import running_broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap string of a real Kafka with all of Esper's topics; tests share it, so each uses its own run ids or topics."""
    folder = tmp_path_factory.mktemp("kafka")
    with PortClaims() as claims:
        node = Node(folder, claims.choose(salt=f"{folder} broker", preferred=()), claims.choose(salt=f"{folder} controller", preferred=()))
        classpath = jars.kafka(lambda _: None)
        with running_broker(node, classpath, cluster_id="ZXNwZXItdGVzdC1icm9rZQ", clock=SystemClock()):
            if find_spec("esper.oona") and find_spec("esper.oona.topics"):
                import_module("esper.oona.topics").ensure(node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
            yield node.bootstrap
