"""The custom metrics that are declared, on a topic of Nissa's own that every worker reads whole."""

from __future__ import annotations

from typing import Final

import faust

from esper.clock import Clock
from esper.config import Settings
from esper.oona.bus.access import Access
from esper.oona.bus.port import Received
from esper_processors.cluster import Followed, Follower, Take
from esper_processors.nissa import custom
from esper_processors.nissa.collectors import Collectors
from esper_processors.nissa.custom import Definition

DEFINITIONS: Final = "esper-nissa-definitions"
"""The topic: compacted, one partition, so that every worker knows all in the same order."""


class DeclaredMetrics:
    """What is declared, and the way to declare more.

    `part` is whose credentials the topic is read with, `take` what reads a message and dead-letters
    one that nobody can read.
    """

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        collectors: Collectors,
        *,
        part: str,
        clock: Clock,
        take: Take,
    ) -> None:
        self.by_name: dict[str, Definition] = {}
        self._collectors = collectors
        self._topic = app.topic(
            DEFINITIONS,
            partitions=1,
            compacting=True,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )
        app.task(self._topic.maybe_declare)
        self._follower = Follower(
            Followed(DEFINITIONS, 0, self._learn),
            access=Access.of(settings, part),
            clock=clock,
            take=take,
        )
        app.service(self._follower)  # type: ignore[arg-type]  # Faust takes instances too

    def caught_up(self) -> bool:
        """Whether all is known that was declared when the worker started."""
        return self._follower.caught_up(DEFINITIONS)

    async def declare(self, definition: Definition) -> None:
        """Declare a metric; returns once the topic has it."""
        encoded = custom.encode(definition)
        await (await self._topic.send(key=definition.name.encode(), value=encoded))
        # only if the topic did not bring another meanwhile: the first definition of a name stands
        self.by_name.setdefault(definition.name, definition)

    def _learn(self, received: Received) -> None:
        definition = custom.decode(received.value)
        if self._collectors.declare(definition, self.by_name):
            self.by_name[definition.name] = definition
