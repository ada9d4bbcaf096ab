"""The custom metrics that are declared, on a topic of Nissa's own that every worker reads whole."""

from __future__ import annotations

from typing import Final

import faust

from esper.oona.bus.port import Received
from esper_processors.cluster import Followed
from esper_processors.nissa import custom
from esper_processors.nissa.collectors import Collectors
from esper_processors.nissa.custom import Definition
from esper_processors.streams import kafka_errors, own_topic

DEFINITIONS: Final = "esper-nissa-definitions"
"""The topic: compacted, one partition, so that every worker knows all in the same order."""


class DeclaredMetrics:
    """What is declared, and the way to declare more."""

    def __init__(self, app: faust.App, collectors: Collectors) -> None:
        self.by_name: dict[str, Definition] = {}
        self._collectors = collectors
        self._topic = own_topic(app, DEFINITIONS)

    def followed(self) -> Followed:
        """What has to be read whole before all is known."""
        return Followed(DEFINITIONS, 0, self._learn)

    async def declare(self, definition: Definition) -> None:
        """Declare a metric; returns once the topic has it."""
        encoded = custom.encode(definition)
        with kafka_errors():
            pending = await self._topic.send(key=definition.name.encode(), value=encoded)
        await pending
        # only if the topic did not bring another meanwhile: the first definition of a name stands
        self.by_name.setdefault(definition.name, definition)

    def _learn(self, received: Received) -> None:
        definition = custom.decode(received.value)
        if self._collectors.declare(definition, self.by_name):
            self.by_name[definition.name] = definition
