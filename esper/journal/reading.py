"""A run's journal as messages in order: from Kafka, or from a file that holds them as they were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import fastavro

from esper.clock import Clock
from esper.errors import CorruptError, PoisonError, UnavailableError, UsageError
from esper.events import JournalEvent, decode
from esper.lifecycle import RunState, evolve
from esper.oona.journal import read
from esper.oona.kafka import KafkaBus

_FILE = fastavro.parse_schema(
    {"type": "record", "name": "JournalMessage", "namespace": "esper.journal", "fields": [{"name": "value", "type": "bytes"}]}
)


def from_kafka(bootstrap: str, run_id: str, *, clock: Clock) -> list[bytes]:
    """The framed events of a run in the order of their partition, committed ones only, from the cluster at `bootstrap`.

    Raises:
        UnavailableError: no broker answers.
        UsageError: the run has no journal there.
    """
    bus = KafkaBus(bootstrap)
    if not bus.available(5.0):
        raise UnavailableError(f"No broker answers at {bootstrap}; start one with `esper up`.")
    if not (found := [received.value for received in read(bus, run_id, clock=clock)]):
        raise UsageError(f"There is no run {run_id}; `esper runs` lists those that there are.")
    return found


def to_file(path: Path, messages: Iterable[bytes]) -> None:
    """Write messages to an Avro container, one datum each."""
    try:
        with path.open("wb") as file:
            fastavro.writer(file, _FILE, [{"value": value} for value in messages], codec="deflate")
    except OSError as error:
        raise UsageError(f"The journal cannot be written to {path}: {error.strerror}.") from error


def from_file(path: Path) -> list[bytes]:
    """The messages that `to_file` wrote.

    Raises:
        UsageError: there is no such file.
        CorruptError: it is cut off or no journal file.
    """
    try:
        with path.open("rb") as file:
            return [datum["value"] for datum in cast("Iterable[dict[str, bytes]]", fastavro.reader(file))]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path} is no whole journal file: {error}. Save it again with `esper replay RUN --fold --save FILE`."
        ) from error


def events_of(messages: Iterable[bytes], name: str) -> list[JournalEvent]:
    """The events of a run's journal, folded on the way so that they are known to be whole up to their end; `name` is for sentences.

    Raises:
        CorruptError: one cannot be decoded, is missing, doubled or out of order, or there is none.
    """
    events: list[JournalEvent] = []
    state: RunState | None = None
    for value in messages:
        try:
            event = decode(value)
        except PoisonError as error:
            raise CorruptError(f"Event {len(events)} of {name} cannot be decoded: {error}") from error
        if not isinstance(event, JournalEvent):
            raise CorruptError(f"Where event {len(events)} of {name} should be, there is a {event.NAME}, which belongs to no journal.")
        state = evolve(RunState(event.run_id) if state is None else state, event)
        events.append(event)
    if not events:
        raise CorruptError(f"{name} holds no event.")
    return events
