"""A run's journal as messages in order: from Kafka, or from a file that holds them as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import fastavro

from esper.clock import Clock
from esper.errors import CorruptError, PoisonError, UnavailableError, UsageError
from esper.events import JournalEvent, decode
from esper.lifecycle import fold
from esper.oona.access import Access
from esper.oona.journal import read
from esper.oona.kafka import KafkaBus

_FILE = fastavro.parse_schema(
    {"type": "record", "name": "JournalMessage", "namespace": "esper.journal", "fields": [{"name": "value", "type": "bytes"}]}
)


def from_kafka(cluster: Access | str, run_id: str, *, clock: Clock) -> Iterator[bytes]:
    """The framed events of a run in the order of their partition, committed ones only, read while they are taken.

    Raises:
        UnavailableError: no broker answers.
        UsageError: the run has no journal there.
    """
    bus = KafkaBus(cluster)
    if not bus.available(5.0):
        raise UnavailableError(f"No broker answers at {bus.bootstrap}; start one with `esper up`.")
    received = None
    for received in read(bus, run_id, clock=clock):
        yield received.value
    if received is None:
        raise UsageError(f"There is no run {run_id}; `esper runs` lists those that there are.")


def decoded(run_id: str, values: Iterable[bytes]) -> list[JournalEvent]:
    """The events of a run in framed messages.

    Raises:
        UsageError: they are another run's.
        CorruptError: one cannot be decoded, or belongs to no journal.
    """
    found: list[JournalEvent] = []
    for number, value in enumerate(values):
        try:
            event = decode(value)
        except PoisonError as error:
            raise CorruptError(f"Event {number} of run {run_id} cannot be decoded: {error}") from error
        if not isinstance(event, JournalEvent):
            raise CorruptError(f"Where event {number} of run {run_id} should be, there is a {event.NAME}, which belongs to no journal.")
        if event.run_id != run_id:
            raise UsageError(f"This is the journal of run {event.run_id}, not of run {run_id}.")
        found.append(event)
    if not found:
        raise CorruptError(f"The journal of run {run_id} is empty.")
    return found


def to_file(path: Path, messages: Iterable[bytes]) -> None:
    """Write messages to an Avro container, one datum each, as they come; where they cannot be read there is no file afterwards.

    Raises:
        UsageError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            fastavro.writer(file, _FILE, ({"value": value} for value in messages), codec="deflate")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"The journal cannot be written to {path}: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def from_file(path: Path) -> Iterator[bytes]:
    """The messages that `to_file` wrote, read while they are taken.

    Raises:
        UsageError: there is no such file.
        CorruptError: it is cut off or no journal file.
    """
    try:
        with path.open("rb") as file:
            for datum in cast("Iterable[dict[str, bytes]]", fastavro.reader(file)):
                yield datum["value"]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path} is no whole journal file: {error}. Save it again with `esper replay RUN --fold --save FILE`."
        ) from error


def whole(events: Sequence[JournalEvent]) -> Sequence[JournalEvent]:
    """The same events, once a fold has shown that none is missing, doubled or out of order up to the last.

    Raises:
        CorruptError: one is; the sentence says which.
    """
    fold(events[0].run_id, events)
    return events


def from_any_file(path: Path) -> list[JournalEvent]:
    """The events in a file that `to_file` wrote, of whatever run. Raises as `from_file` and `decoded` do."""
    messages = list(from_file(path))
    if not messages:
        raise CorruptError(f"{path} holds no event.")
    return decoded(decode(messages[0]).run_id, messages)
