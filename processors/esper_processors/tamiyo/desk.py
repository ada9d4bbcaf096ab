"""Where people's commands go out and their answers come in."""

from __future__ import annotations

from collections.abc import Callable

from esper.clock import Clock
from esper.events import Event, Origin, encode
from esper.events.codec import schema_id
from esper.events.envelope import trace_id
from esper.events.records import SeedCommand
from esper.events.schemas import wire_schema
from esper.oona.bus.port import Received
from esper_processors import streams
from esper_processors.cluster import Followed
from esper_processors.tamiyo.answers import SENDER
from esper_processors.tamiyo.command_log import HORIZON_US, RECORDS, TOPICS, Commands, Order


class Desk:
    """Knows every command of the last days with its answer, whichever worker sent it, and sends new
    ones.
    """

    def __init__(
        self, outbound: streams.FramedSender, clock: Clock, opened: Callable[[Received], Event]
    ) -> None:
        self.commands = Commands()
        self._outbound = outbound
        self._clock = clock
        self._opened = opened

    def followed(self) -> tuple[Followed, ...]:
        """What has to be followed for it."""
        since_ms = (self._clock.now_us() - HORIZON_US) // 1000
        return tuple(Followed(topic, since_ms, self._note) for topic in TOPICS)

    async def give(self, run_id: str, order: Order, actor: str) -> SeedCommand:
        """Send a command; returns once the broker has it."""
        command = order.event(
            Origin(run_id, SENDER, trace_id("command", run_id, actor), self._clock), actor
        )
        await self._outbound.send(encode(command))
        # now, not when it comes back through Kafka: the caller asks for it in its next request
        self.commands.take(command)
        return command

    def _note(self, received: Received) -> None:
        """Take a command or an answer; what else stands in these topics is not even decoded."""
        if wire_schema(schema_id(received.value)).record in RECORDS:
            self.commands.take(self._opened(received))
