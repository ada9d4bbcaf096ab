"""What an attacker who may write to Kafka can make: events of every record, signed by nobody, by a
key of its own, or with a copied signature.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from esper.events import JournalEvent, decode, encode
from esper.events.codec import Message
from esper.events.envelope import event_id
from esper.events.records import RECORDS
from esper.events.schemas import current
from esper.events.seals import Signer, digest

JOURNAL_RECORDS = tuple(record for record in RECORDS if issubclass(record, JournalEvent))
"""Every record of a journal."""

_NUMBERS = itertools.count()


def new_id() -> str:
    """An event id that no other event has."""
    return event_id("forged", next(_NUMBERS), str(os.getpid()))


def any_event(record: type[Any], **values: Any) -> Any:
    """An event of a record with the smallest values, but for those given."""
    schema = current(record).schema
    named: dict[str, Any] = {}
    datum = {field["name"]: _smallest(field["type"], named) for field in schema["fields"]}
    if "event_id" in datum:  # who takes events takes none with another id
        datum["event_id"] = new_id()
    return record(
        **{
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in datum.items()
            },
            **values,
        }
    )


def _smallest(avro: Any, named: dict[str, Any]) -> Any:
    if isinstance(avro, list):
        return None
    if isinstance(avro, dict):
        if avro["type"] == "enum":
            named[avro["name"]] = avro
            return avro["symbols"][0]
        if avro["type"] == "array":
            return []
        if avro["type"] == "map":
            return {}
        return _smallest(avro["type"], named)
    kinds: dict[str, Any] = {
        "string": "",
        "long": 0,
        "int": 0,
        "double": 0.0,
        "float": 0.0,
        "boolean": False,
        "bytes": b"",
    }
    short = avro.rpartition(".")[2]
    return named[short]["symbols"][0] if short in named else kinds[avro]


def forged(run_id: str, journal: Sequence[Message], seed: int = 1) -> Iterator[tuple[str, Message]]:
    """Forgeries for the end of a run's journal, whose messages are given: every record, with the
    next, a used and a far sequence; and what they are.

    They are unsigned, signed by a key of the attacker's, or name the trainer's key and the right
    predecessor under a copied signature.
    """
    chance, mallory = random.Random(seed), Signer(Ed25519PrivateKey.generate())  # noqa: S311 - the same forgeries each time
    last = decode(journal[-1].value)
    assert isinstance(last, JournalEvent)
    head = digest(last.NAME, journal[-1].value)
    for record in JOURNAL_RECORDS:
        for where, sequence in (
            ("next", last.sequence + 1),
            ("used", last.sequence),
            ("first", 0),
            ("far", 10**9),
        ):
            event = any_event(
                record,
                event_id=f"{chance.getrandbits(128):032x}",
                run_id=run_id,
                sender_id="trainer",
                trace_id="0" * 32,
                occurred_at=1,
                sequence=sequence,
                timeline=last.timeline,
                epoch=last.epoch,
                step=last.step,
            )
            yield f"{record.NAME}, {where} sequence, unsigned", encode(event)
            yield f"{record.NAME}, {where} sequence, another key", mallory.seal(event, head)
            copied = replace(event, signer=last.signer, previous=head, signature=last.signature)
            yield f"{record.NAME}, {where} sequence, copied signature", encode(copied)
