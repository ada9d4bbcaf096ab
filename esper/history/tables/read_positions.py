"""How far the history has read: the ledger's rows, and what each table holds beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from esper.clock import Clock
from esper.events.topics import TOPICS
from esper.history.tables.ddl import literal, record_tables

Pair = tuple[str, int]
"""A topic and one of its partitions."""

_COLUMNS: Final = ("topic", "topic_id", "partition", "next_offset", "written_at")
_WHOLE: Final = {"async_insert": 0}  # ClickHouse's default would answer before the row is on disk


class SinkLedger:
    """The tables `ledger` and `endings`, through the writer's client."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    def positions(self, topic_ids: Mapping[str, str]) -> dict[Pair, int]:
        """The next offset of each partition that was ever read.

        A topic that was made again has none.
        """
        rows = self._client.query(
            # max: until a merge, ReplacingMergeTree still has the earlier rows
            "SELECT topic_id, partition, max(next_offset) FROM ledger GROUP BY topic_id, partition"
        ).result_rows
        names = {topic_id: name for name, topic_id in topic_ids.items()}
        return {
            (names[topic_id], partition): offset
            for topic_id, partition, offset in rows
            if topic_id in names
        }

    def largest(
        self, topic_ids: Mapping[str, str], positions: Mapping[Pair, int]
    ) -> dict[tuple[str, Pair], int]:
        """The largest offset of each (table, partition) at or after the ledger: rows of blocks
        whose ledger row was never written.
        """
        queries = []
        for table in record_tables().values():
            topic = table.record.TOPIC
            partitions = range(TOPICS[topic].partitions or 1)
            # the least of all partitions: one query a table, and a row too many does no harm
            lowest = min((positions.get((topic, number), 0) for number in partitions), default=0)
            queries.append(
                f"SELECT {literal(table.name)} AS name, {literal(topic)} AS topic, "  # noqa: S608
                f"_partition, max(_offset) FROM {table.name} "
                f"WHERE _topic_id = {literal(topic_ids[topic])} AND _offset >= {lowest} "
                "GROUP BY _partition"
            )
        rows = self._client.query(" UNION ALL ".join(queries)).result_rows
        return {(name, (topic, partition)): offset for name, topic, partition, offset in rows}

    def write(self, topic_ids: Mapping[str, str], positions: Mapping[Pair, int]) -> None:
        """Note that everything before `positions` is in the tables."""
        now = self._clock.now_us()
        rows = [
            [topic, topic_ids[topic], partition, offset, now]
            for (topic, partition), offset in positions.items()
        ]
        self._client.insert("ledger", rows, column_names=list(_COLUMNS), settings=_WHOLE)

    def note(self, remaining: int | None) -> None:
        """Note that the sink begins (None) or ends with so many offsets not taken."""
        self._client.insert(
            "endings",
            [[self._clock.now_us(), remaining]],
            column_names=["at", "remaining"],
            settings=_WHOLE,
        )
