"""Asking the history: over HTTP while the history process lives, else straight from its folder.

And waiting until it holds everything.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.errors import EsperError, UsageError
from esper.service.client import ANSWER_S, Client

if TYPE_CHECKING:
    from esper.history.confined.engine import Engine
    from esper.oona.bus.port import Bus

RUNS: Final = (
    "SELECT run_id, recipe, seed, decisions, state, started_at, seconds, epochs, steps, "
    "accuracy, loss, score, score_name, grafts, fossilized, culled, "
    "parameters, parent, forked_step, name, note, tags, baseline, deleted FROM runs"
)
"""What `esper runs` shows."""

TABLES: Final = (
    "SELECT name, if(engine = 'View', 'view', 'table') AS kind, total_rows AS rows, "
    "comment FROM system.tables "
    "WHERE database = currentDatabase() ORDER BY (name LIKE 'raw%', kind = 'table', name)"
)
"""What `esper sql` without a query shows."""

_QUEUE_S: Final = 60
"""Seconds that a query may wait for its turn."""
_POLL_S: Final = 0.05
_MAX_SENTENCE: Final = 400
_SUBJECT: Final = "esper"
_PART: Final = "history"


def answer_s(settings: Settings) -> float:
    """Seconds within which the history answers a query, the wait for its turn included."""
    return max(settings.service.timeout_s, settings.history.query_s + _QUEUE_S)


class QuerySource(AbstractContextManager["QuerySource"], ABC):
    """Where queries are answered."""

    @abstractmethod
    def ask(self, sql: str, output_format: str, settings: Mapping[str, str] | None = None) -> bytes:
        """The result of a query that only reads, in a ClickHouse format unless the query names
        another.

        Raises:
            UsageError: ClickHouse refuses the query; the sentence says why.
            UnavailableError: the history does not answer.
        """

    def rows(self, sql: str, parameters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The result as one dictionary a row; takes parameters and raises as `ask` does."""
        return [json.loads(line) for line in self.ask(sql, "JSONEachRow", parameters).splitlines()]

    def missing(self) -> int | None:
        """How many Kafka offsets the history had not taken when it ended; None if it was killed.

        0 while it runs.
        """
        return 0

    @abstractmethod
    def close(self) -> None:
        """Let go."""

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpSource(QuerySource):
    """The history process at `url`, asked with a token of this installation in the name of
    `subject`, whose share of its queries it uses.

    `settings` are the environment's, if left out.
    """

    def __init__(
        self, url: str, settings: Settings | None = None, *, subject: str = _SUBJECT
    ) -> None:
        self._url = url.rstrip("/")
        settings = settings or Settings.load()
        # Longer than the server waits, so that its own sentence arrives rather than ours.
        self._timeout = answer_s(settings) + ANSWER_S
        self._client = Client(settings, subject=subject, part=_PART)

    def ask(self, sql: str, output_format: str, settings: Mapping[str, str] | None = None) -> bytes:
        """As the base class says."""
        address = f"{self._url}/?{urlencode({'default_format': output_format, **(settings or {})})}"
        reply = self._client.ask(address, data=sql.encode(), timeout=self._timeout)
        if not reply.succeeded:
            # ClickHouse's statuses are not those of the other parts: 500 is a fault in the query.
            raise UsageError(sentence(reply.body.decode(errors="replace")))
        return reply.body

    def close(self) -> None:
        """Nothing is held."""


class FolderSource(QuerySource):
    """The folder of a history that no process owns now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, sql: str, output_format: str, settings: Mapping[str, str] | None = None) -> bytes:
        """As the base class says."""
        from esper.history.confined.guard import check  # noqa: PLC0415 - for a folder alone
        from esper.history.confined.refusal import QueryError  # noqa: PLC0415 - the same

        given, prefix = settings or {}, "param_"
        plain = {name: value for name, value in given.items() if not name.startswith(prefix)}
        values = {
            name.removeprefix(prefix): value
            for name, value in given.items()
            if name.startswith(prefix)
        }
        try:
            return self._engine.answer(
                check(sql).sql, default_format=output_format, settings=plain, parameters=values
            ).body
        except QueryError as error:
            raise UsageError(sentence(str(error))) from error

    def missing(self) -> int | None:
        """As the base class says."""
        last = self.rows("SELECT remaining FROM endings ORDER BY at DESC LIMIT 1")
        remaining = last[0]["remaining"] if last else 0
        return None if remaining is None else int(remaining)

    def close(self) -> None:
        """Give the folder free."""
        self._engine.close()


def source(settings: Settings, history_url: str) -> QuerySource:
    """The history at `history_url`.

    If that is empty, the ClickHouse server or the folder of `settings`.

    Raises:
        UsageError: there is no history yet.
        UnavailableError: another process has the folder open, or the server does not answer.
    """
    if history_url:
        return HttpSource(history_url, settings)
    if not settings.history.dsn and not (settings.history_dir / "store").exists():
        raise UsageError(
            f"There is no history in {settings.history_dir} yet; `esper run mnist1d` makes one."
        )
    from esper.history.confined.engine import open_engine  # noqa: PLC0415 - chDB's client is heavy
    from esper.history.confined.query_settings import QueryLimits  # noqa: PLC0415 - the same

    return FolderSource(
        open_engine(settings.history_dir, settings.history.dsn, QueryLimits.of(settings.history))
    )


def sentence(message: str) -> str:
    """ClickHouse's message in one line, without its code, version and stack."""
    text = " ".join(message.split())
    text = text.rpartition("DB::Exception: ")[2] if "DB::Exception: " in text else text
    text = text.partition(" (version ")[0].partition(" Stack trace:")[0]
    if len(text) > _MAX_SENTENCE:
        text = text[:_MAX_SENTENCE].rsplit(" ", 1)[0] + " ..."
    return f"ClickHouse refuses the query: {text}"


def wait_caught_up(
    history_url: str,
    bus: Bus,
    *,
    timeout: float,
    clock: Clock | None = None,
    topics: tuple[str, ...] = (),
    settings: Settings | None = None,
) -> bool:
    """Wait until the history holds every message that is committed on `topics` (all of Esper's) at
    the time of the call.

    `settings` are the environment's, if left out. Gives False after `timeout` seconds, also if the
    history does not answer or the broker is away.
    """
    from esper.events.topics import TOPICS  # noqa: PLC0415 - as the others: the command line loads quickly

    clock = clock or SystemClock()
    client = Client(settings or Settings.load(), subject=_SUBJECT, part=_PART, clock=clock)
    ends: dict[tuple[str, int], int] | None = None

    def held() -> bool:
        nonlocal ends
        try:
            if ends is None:
                with bus.reader(topics or tuple(TOPICS), start="end") as reader:
                    ends = reader.position()
            return _reached(client, history_url, ends)
        except EsperError:
            return False  # it may come back before the time is over

    return clock.wait_until(held, timeout, _POLL_S)


def _reached(client: Client, history_url: str, ends: Mapping[tuple[str, int], int]) -> bool:
    health = client.json(f"{history_url.rstrip('/')}/health", timeout=5, role=None)
    positions: dict[str, int] = health["positions"]
    return all(
        positions.get(f"{topic}/{partition}", -1) >= end for (topic, partition), end in ends.items()
    )


def events_by_topic(
    history_url: str, run_id: str, settings: Settings | None = None
) -> dict[str, int]:
    """How many events of a run each topic has, each event counted once.

    Raises as `Source.ask` does. `settings` as in `HttpSource`.
    """
    query = (
        "SELECT topic, count() AS events FROM events WHERE run_id = {run:String} GROUP BY "
        "topic ORDER BY topic"
    )
    answer = HttpSource(history_url, settings).ask(query, "JSONEachRow", {"param_run": run_id})
    return {row["topic"]: int(row["events"]) for row in map(json.loads, answer.splitlines())}
