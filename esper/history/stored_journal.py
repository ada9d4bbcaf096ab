"""A run's journal out of the history's tables: the history keeps every field of every event, so
events and messages come back as they were.

What others wrote under the run's key stands in the tables as on Kafka;
`esper.oona.durable.authentic` tells it from the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import RECORDS
from esper.events.seals import TRAINER, Trust, fault, restored
from esper.history.queries import QuerySource
from esper.history.stored_events import Place, placed
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import JOURNAL

_NEVER_US: Final = 1 << 62


def messages_of(history: QuerySource, run_id: str, trust: Trust) -> Iterator[Received]:
    """The messages under a run's key in the order in which they stand on Kafka.

    The history has no times of the broker's. Where the run begins with a signed event, no message
    counts as older than signatures.

    Raises:
        UsageError: the history has no such run.
        UnavailableError: the history does not answer.
    """
    entries = [
        entry
        for record in RECORDS
        if issubclass(record, JournalEvent)
        for entry in _events(history, record, run_id)
    ]
    if not entries:
        raise UsageError(
            f"There is no run {run_id} in the history; `esper runs` lists those that there are."
        )
    keys = trust.keys(TRAINER, run_id)
    signed = any(
        event.sequence == 0 and not fault(event, value, keys or (event.signer,))
        for _, event, value in entries
        if event.signer
    )
    key, at_us = run_id.encode(), _NEVER_US if signed else 0
    for (_, partition, offset), _, value in sorted(entries, key=lambda entry: entry[0]):
        yield Received(JOURNAL, partition, offset, key, value, (), at_us)


def _events(
    history: QuerySource, record: type[JournalEvent], run_id: str
) -> Iterator[tuple[Place, JournalEvent, bytes]]:
    """The events of one record with place and message."""
    for place, event in placed(history, record, "run_id = {run:String}", {"param_run": run_id}):
        if isinstance(event, JournalEvent):
            yield place, event, restored(event).value
