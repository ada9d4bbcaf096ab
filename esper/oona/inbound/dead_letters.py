"""Dead letters: a message that a consumer cannot take is put aside with the reason, and reading
goes on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from esper.clock import Clock
from esper.errors import BackpressureError
from esper.events.codec import Message, encode
from esper.events.envelope import Origin, trace_id
from esper.events.records import DeadLettered
from esper.oona.bus.port import MAX_MESSAGE_BYTES, Producer, Received

TOPIC: Final = DeadLettered.TOPIC
ERROR_CHARACTERS: Final = 2_000
"""Longest reason in a letter: an error may quote the message that it is about."""
_ROOM = MAX_MESSAGE_BYTES - 65_536
_PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Where `consumer` puts what it gives up.

    `lost` counts the letters that the local queue had no room for.
    """

    producer: Producer
    consumer: str
    clock: Clock
    lost: Counter[str] = field(default_factory=Counter)

    def put(self, received: Received, error: Exception) -> DeadLettered:
        """Send a message that could not be decoded or applied to `dead.letters`, as it was (cut to
        8 MiB less the envelope).

        The same message given up twice by the same consumer has the same event id. Where the local
        queue stays full for two seconds the letter is counted as lost; the message itself stays at
        its place in its topic.
        """
        made = letter(received, error, consumer=self.consumer, clock=self.clock)
        for attempt in (False, True):
            try:
                self.producer.send(made)
            except BackpressureError:
                if attempt:
                    self.lost[received.topic] += 1
                else:
                    # waits a little, because a letter that is lost leaves a refusal without its
                    # reason
                    self.producer.flush(_PATIENCE_S)
            else:
                break
        return made


def letter(received: Received, error: Exception, *, consumer: str, clock: Clock) -> DeadLettered:
    """The letter that gives a received message up: its place, the error in a sentence, and the raw
    bytes, cut to what a message may hold.
    """
    place = f"{received.topic}/{received.partition}/{received.offset}"
    origin = Origin("", consumer, trace_id("dead letter", place), clock)
    return DeadLettered(
        **origin.envelope(f"dead letter/{consumer}/{place}"),
        source_topic=received.topic,
        source_partition=received.partition,
        source_offset=received.offset,
        error=_sentence(error),
        # the letter has to fit where the message itself just did
        payload=received.value[:_ROOM],
        consumer=consumer,
    )


def message(received: Received, error: Exception, *, consumer: str, clock: Clock) -> Message:
    """The same as a message, for those who send through another client."""
    return encode(letter(received, error, consumer=consumer, clock=clock))


def _sentence(error: Exception) -> str:
    """What an error says: never empty, of a bounded length, and text that UTF-8 can hold (a quoted
    message may have lone surrogates).
    """
    text = str(error) or type(error).__name__
    return text[:ERROR_CHARACTERS].encode(errors="replace").decode()
