"""A run's journal as messages in order: from Kafka, or from a file that holds them as they were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import fastavro

from esper.errors import CorruptError, UnavailableError, UsageError
from esper.oona.kafka import KafkaBus
from esper.oona.port import Bus

JOURNAL = "system.events.run"
BLOCK = 10_000  # messages a poll
_FILE = fastavro.parse_schema(
    {"type": "record", "name": "JournalMessage", "namespace": "esper.journal", "fields": [{"name": "value", "type": "bytes"}]}
)


def read(bus: Bus, run_id: str) -> list[bytes]:
    """The framed events of a run in the order of their partition, committed ones only.

    Raises:
        UnavailableError: no broker answers.
    """
    key = run_id.encode()
    partition = bus.partition_of(JOURNAL, key)
    found: list[bytes] = []
    with bus.reader([JOURNAL], start="beginning", headers=False) as reader:
        end = reader.stable_end()
        while reader.position()[(JOURNAL, partition)] < end[(JOURNAL, partition)]:
            found += [one.value for one in reader.poll(BLOCK, 1.0) if one.key == key and one.partition == partition]
    return found


def from_kafka(bootstrap: str, run_id: str) -> list[bytes]:
    """As `read`, from the cluster at `bootstrap`.

    Raises:
        UsageError: the run has no journal there.
    """
    bus = KafkaBus(bootstrap)
    if not bus.available(5.0):
        raise UnavailableError(f"No broker answers at {bootstrap}; start one with `esper up`.")
    if not (found := read(bus, run_id)):
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
            return [datum["value"] for datum in fastavro.reader(file)]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path} is no whole journal file: {error}. Save it again with `esper replay RUN --fold --save FILE`."
        ) from error
