"""A run's journal as messages in order, from Kafka, or from a file that holds them as they were.

And the events among them.

Whatever stands under a run's key on Kafka is held against signatures: what its trainer did not
write is set aside. To a file nobody adds messages but a forger, so there the first such message is
an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import fastavro

from esper.bounded import DEFAULT, Limits, avro_values, open_in, open_named
from esper.bounded.names import MALFORMED, is_run_id
from esper.clock import Clock
from esper.errors import CorruptError, PoisonError, UnavailableError, UsageError, printable
from esper.events import JournalEvent, decode
from esper.events.seals import Trust
from esper.lifecycle import Fold, RunState, fold
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import Judge, as_received, judged
from esper.oona.durable.journal_reader import read

_SCHEMA: Final = {
    "type": "record",
    "name": "JournalMessage",
    "namespace": "esper.journal",
    "fields": [{"name": "value", "type": "bytes"}],
}
_FILE: Final = fastavro.parse_schema(json.loads(json.dumps(_SCHEMA)))
JOURNAL: Final = "journal.avro"
"""The journal in the folder of an export."""

WRITTEN: Final = (
    _SCHEMA,
    {"type": "record", "name": "esper.journal.JournalMessage", "fields": _SCHEMA["fields"]},
)
"""The schema as the head of a journal file may have it: with its namespace apart or in its name, as
fastavro writes it.
"""


def from_kafka(cluster: Access | str, run_id: str, *, clock: Clock) -> Iterator[Received]:
    """The committed messages under a run's key in the order of their partition, read while they are
    taken.

    Raises:
        UnavailableError: no broker answers.
        UsageError: the run has no journal there.
    """
    bus = KafkaBus(cluster)
    if not bus.available(5.0):
        raise UnavailableError(f"No broker answers at {bus.bootstrap}; start one with `esper up`.")
    received = None
    for received in read(bus, run_id, clock=clock):
        yield received
    if received is None:
        raise UsageError(f"There is no run {run_id}; `esper runs` lists those that there are.")


def believed(messages: Iterable[Received], judge: Judge) -> list[tuple[JournalEvent, bytes]]:
    """The events of a run among the messages under its key, with their bytes as they stand there.

    Raises:
        CorruptError: one that its trainer wrote is missing, changed or out of its place.
        UsageError: there is none.
    """
    pairs = [(event, received.value) for event, received in judged(messages, judge)]
    judge.require_events()
    return pairs


def on_kafka(
    cluster: Access | str, run_id: str, *, clock: Clock, trust: Trust, say: Callable[[str], None]
) -> list[JournalEvent]:
    """The events of a run on Kafka; `say` receives what was set aside.

    Raises as `from_kafka` and `believed` do.
    """
    judge = Judge(run_id, trust)
    events = [event for event, _ in believed(from_kafka(cluster, run_id, clock=clock), judge)]
    for sentence in judge.warnings():
        say(sentence)
    return events


def decoded(
    run_id: str, values: Iterable[bytes], *, trust: Trust | None = None
) -> list[JournalEvent]:
    """The events of a run in framed messages that are not on Kafka.

    Without `trust`, whoever signed the first one is taken at its word.

    Raises:
        UsageError: they are another run's.
        CorruptError: one cannot be decoded, belongs to no journal, or is not as its trainer wrote
            it.
    """
    events = list(_each(run_id, values, trust))
    if not events:
        raise CorruptError(f"The journal of run {run_id} is empty.")
    return events


def decoded_whole(
    run_id: str, values: Iterable[bytes], *, trust: Trust | None = None
) -> list[JournalEvent]:
    """The same, folded while they are read, so that what is no journal is refused at its first
    wrong event.

    Raises:
        UsageError, CorruptError: as `decoded`; or an event is missing, doubled or does not follow
            from those before it.
    """
    run, events = Fold(RunState(run_id)), list[JournalEvent]()
    try:
        for event in _each(run_id, values, trust):
            # While it is read: a file of millions of events that is none is refused at its first
            # fault.
            run.apply(event)
            events.append(event)
    except MALFORMED as error:
        raise CorruptError(
            f"Event {len(events)} of run {run_id} does not follow from those before it: "
            f"{type(error).__name__}: {error}."
        ) from error
    if not events:
        raise CorruptError(f"The journal of run {run_id} is empty.")
    return events


def _each(run_id: str, values: Iterable[bytes], trust: Trust | None) -> Iterator[JournalEvent]:
    judge = Judge(run_id, trust or Trust(), strict=True)
    return (event for event, _ in judged(as_received(values, run_id, source="file"), judge))


def to_file(path: Path, messages: Iterable[bytes]) -> None:
    """Write messages to an Avro container, one datum each, as they come.

    Where they cannot be read there is no file afterwards.

    Raises:
        UsageError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            fastavro.writer(file, _FILE, ({"value": value} for value in messages), codec="deflate")
        # Whole or not at all: messages are read from Kafka while they are written, which may fail.
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"The journal cannot be written to {path}: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def from_file(path: Path, limits: Limits = DEFAULT) -> Iterator[bytes]:
    """The messages that `to_file` wrote, read while they are taken.

    Raises:
        UsageError: there is no such file.
        CorruptError: it is cut off or no journal file, or unpacks to more than the limits allow.
    """
    with open_named(path, limits.file) as file:
        try:
            yield from avro_values(file, WRITTEN, limits, str(path))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def journal_in(folder: Path, limits: Limits = DEFAULT) -> Iterator[bytes]:
    """The messages of the journal in the folder of an export, read while they are taken.

    No link in there is followed.

    Raises:
        UsageError: there is none.
        CorruptError: as `from_file`.
    """
    try:
        with open_in(folder, JOURNAL, limits.file) as file:
            yield from avro_values(file, WRITTEN, limits, str(folder / JOURNAL))
    except FileNotFoundError:
        raise UsageError(f"{folder / JOURNAL} cannot be read: there is no such file.") from None
    except OSError as error:
        raise UsageError(f"{folder / JOURNAL} cannot be read: {error.strerror}.") from error


def whole(events: Sequence[JournalEvent]) -> Sequence[JournalEvent]:
    """The same events, once a fold has shown that none is missing, doubled or out of order up to
    the last.

    Raises:
        CorruptError: one is; the sentence says which.
    """
    fold(events[0].run_id, events)
    return events


def from_anywhere(path: Path, limits: Limits = DEFAULT) -> list[JournalEvent]:
    """The events in a file that `to_file` wrote, or in the folder of an export, of whatever run,
    folded.

    Raises as `from_file`, `journal_in` and `decoded_whole` do.
    """
    messages = journal_in(path, limits) if path.is_dir() else from_file(path, limits)
    first = next(messages, None)
    if first is None:
        raise CorruptError(f"{path} holds no event.")
    try:
        run_id = decode(first).run_id
    except PoisonError as error:
        raise CorruptError(f"The first event in {path} cannot be decoded: {error}") from error
    if not is_run_id(run_id):
        raise CorruptError(
            f"{path} is the journal of {printable(run_id)[:80]!r}, which can be no run."
        )
    return decoded_whole(run_id, chain([first], messages))
