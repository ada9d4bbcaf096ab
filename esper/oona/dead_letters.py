"""Dead letters: a message that nobody can read is put aside with the reason, and reading goes on."""

from __future__ import annotations

from dataclasses import dataclass

from esper.clock import Clock
from esper.errors import BackpressureError
from esper.events.envelope import Origin, trace_id
from esper.events.records import DeadLettered
from esper.oona.port import MAX_MESSAGE_BYTES, Producer, Received

_ROOM = MAX_MESSAGE_BYTES - 65_536


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Where `consumer` puts what it gives up."""

    producer: Producer
    consumer: str
    clock: Clock

    def put(self, received: Received, error: Exception) -> DeadLettered:
        """Send a message that could not be decoded or applied to `dead.letters`, as it was (cut to 8 MiB less the envelope).

        The same message given up twice by the same consumer has the same event id. Where the local queue is full the letter is not sent;
        the message itself stays at its place in its topic.
        """
        place = f"{received.topic}/{received.partition}/{received.offset}"
        origin = Origin("", self.consumer, trace_id("dead letter", place), self.clock)
        letter = DeadLettered(
            **origin.envelope(f"dead letter/{self.consumer}/{place}"),
            source_topic=received.topic,
            source_partition=received.partition,
            source_offset=received.offset,
            error=str(error),
            payload=received.value[:_ROOM],
            consumer=self.consumer,
        )
        try:
            self.producer.send(letter)
        except BackpressureError:
            self.producer.poll()
        return letter
