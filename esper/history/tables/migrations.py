"""Brings the tables and views of a history up to this version of Esper.

What was applied stands in the table `migrations`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from esper.clock import Clock
from esper.errors import UsageError
from esper.history.tables.ddl import Migration, record_tables
from esper.history.tables.views import views

_APPLIED: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number UInt32 COMMENT 'Order of application, from 1',
    name String COMMENT 'Table and version, or view and hash of its query',
    statement String COMMENT 'What was run',
    applied_at DateTime64(6, 'UTC') COMMENT 'When'
) ENGINE = MergeTree ORDER BY number COMMENT 'Changes of the schema of this history'
"""

_OWN: Final = (
    Migration(
        "ledger.1",
        """
CREATE TABLE IF NOT EXISTS ledger (
    topic LowCardinality(String) COMMENT 'Topic',
    topic_id LowCardinality(String) COMMENT 'Kafka''s id of the topic',
    partition Int32 COMMENT 'Partition',
    next_offset Int64 COMMENT 'Everything before this offset is in the tables',
    written_at DateTime64(6, 'UTC') COMMENT 'When'
) ENGINE = ReplacingMergeTree(next_offset) ORDER BY (topic_id, partition) COMMENT 'How far the history has read each partition'
""",
    ),
    Migration(
        "endings.1",
        """
CREATE TABLE IF NOT EXISTS endings (
    at DateTime64(6, 'UTC') COMMENT 'When the sink began or ended',
    remaining Nullable(Int64) COMMENT 'Offsets on Kafka that it had not taken when it ended; null while it runs and if it was killed'
) ENGINE = MergeTree ORDER BY at COMMENT 'Begin and end of each sink: what may still be missing'
""",
    ),
)


def migrations() -> tuple[Migration, ...]:
    """Every migration of this version of Esper, in order."""
    tables = [migration for table in record_tables().values() for migration in table.migrations]
    shown = [
        Migration(
            f"view.{view.name}.{hashlib.sha256(view.sql.encode()).hexdigest()[:12]}", view.sql
        )
        for view in views()
    ]
    return (*_OWN, *tables, *shown)


def migrate(client: Any, clock: Clock) -> int:
    """Apply what is lacking; gives how many statements were run.

    Killed on the way, it goes on where it was.

    Raises:
        UsageError: a newer Esper has written this history.
    """
    client.command(_APPLIED)
    rows = client.query("SELECT number, name FROM migrations ORDER BY number").result_rows
    applied = [name for _, name in rows]
    ours = migrations()
    _refuse_newer(applied, ours)
    held = {_subject(name): name for name in applied}
    pending: list[Migration] = []
    number, count = max((row[0] for row in rows), default=0), 0

    def note() -> None:
        nonlocal number
        rows = [
            [number + place, migration.name, migration.statement, clock.now_us()]
            for place, migration in enumerate(pending, 1)
        ]
        if rows:
            client.insert(
                "migrations", rows, column_names=["number", "name", "statement", "applied_at"]
            )
        number += len(rows)
        pending.clear()

    for migration in ours:
        if held.get(_subject(migration.name)) == migration.name:
            continue
        if alters := migration.statement.startswith("ALTER"):
            note()
        client.command(migration.statement)
        pending.append(migration)
        count += 1
        if alters:
            note()  # a column may be renamed once only
    note()
    return count


def _subject(name: str) -> str:
    """A view's name without the hash, so that a view counts by its latest version.

    A table's migration is its own subject.
    """
    return name.rpartition(".")[0] if name.startswith("view.") else name


def _refuse_newer(applied: list[str], ours: tuple[Migration, ...]) -> None:
    known = {migration.name for migration in ours}
    if newer := [name for name in applied if name not in known and not name.startswith("view.")]:
        raise UsageError(
            f"A newer Esper has written this history ({newer[0]}); upgrade Esper, or set "
            "ESPER_HOME to another folder."
        )
