"""The history process: `python -m esper.history`.

It owns the folder, fills it from Kafka and serves it over HTTP until SIGTERM.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from typing import Any

from esper import logs
from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.errors import EsperError, UsageError
from esper.history.confined.engine import open_engine
from esper.history.confined.query_settings import QueryLimits
from esper.history.http import HistoryServer
from esper.history.sink import Sink
from esper.history.tables.migrations import migrate
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus

_log = logging.getLogger("esper.history")


def serve(settings: Settings, clock: Clock, stop: threading.Event) -> None:
    """Run until `stop` is set.

    Raises:
        EsperError: the folder or port is taken, or the topics are not those that were read before.
    """
    if not settings.kafka.bootstrap:
        raise UsageError(
            "The history reads from Kafka: set ESPER_KAFKA__BOOTSTRAP, or start the whole "
            "stack with `esper up`."
        )
    engine = open_engine(
        settings.history_dir, settings.history.dsn, QueryLimits.of(settings.history)
    )
    if (confinement := engine.confinement) is not None and not (
        confinement.files and confinement.network
    ):
        _log.warning(
            "queries are confined by their check alone (%s): `esper doctor` says what is lacking",
            confinement.words,
        )
    try:
        migrate(engine.client, clock)
        sink = Sink(engine.client, KafkaBus(Access.of(settings, "history")), clock)
        server = HistoryServer(engine, settings=settings, health=lambda: health(sink), clock=clock)
        server.start()
        _log.info("serving at %s://127.0.0.1:%d", settings.scheme, server.port)
        try:
            sink.run(stop)
        finally:
            server.stop()
    finally:
        engine.close()


def collect_rarely() -> None:
    """Let Python look for reference cycles seldom: each look walks every message held, and at its
    defaults that halves the sink's rate.
    """
    gc.set_threshold(200_000, 20, 100)


def health(sink: Sink) -> tuple[bool, dict[str, Any]]:
    """Whether the sink consumes, and how far it is."""
    progress = sink.progress
    positions = {
        f"{topic}/{partition}": offset for (topic, partition), offset in progress.positions.items()
    }
    more = {
        "rows": progress.rows,
        "dead_letters": progress.dead_letters,
        "trouble": progress.trouble,
        "positions": positions,
    }
    return progress.ready and sink.advance.well(), {**more, **sink.advance.details()}


def main() -> int:
    """Exit code 0 after SIGTERM; one sentence and another code if it cannot run."""
    logs.configure()
    collect_rarely()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(Settings.load(), SystemClock(), stop)
    except EsperError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the sentence for whoever started it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
