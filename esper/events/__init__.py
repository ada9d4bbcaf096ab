"""Events: records generated from `schemas/`, their envelope, framing and topics."""

from __future__ import annotations

from esper.events.codec import Message, decode, encode
from esper.events.envelope import Event, JournalEvent, Origin, event_id
from esper.events.topics import TOPICS, Topic

__all__ = [
    "TOPICS",
    "Event",
    "JournalEvent",
    "Message",
    "Origin",
    "Topic",
    "decode",
    "encode",
    "event_id",
]
