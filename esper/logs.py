"""What processes of the stack write to their logs: one form of line, for Esper's own and for its
libraries'.

Modules log through Python's `logging`, and only a process that is Esper's own configures it:
whoever imports Esper decides for themselves.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.config
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

WHERE: Final = signal.SIGQUIT
"""The signal at which a part says where its threads are, as Java does at the same."""
_LEVELS: Final = {"esper": "INFO", "esper_processors": "INFO", "esper.oona": "WARNING"}
"""Esper's parts say what they begin and end.

Its clients of Kafka only what is wrong, because each outage is a line for each of them.
"""


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z WARNING esper.history: ...`, in UTC.

    A message is one line of printable characters, whatever a stranger has put into what it quotes.
    Tracebacks follow on lines of their own.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that `logging` calls
        """The line."""
        text = super().formatMessage(record)
        return (
            text
            if text.isprintable()
            else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        )


def configuration(
    filters: Mapping[str, Callable[[], logging.Filter]] | None = None,
) -> dict[str, Any]:
    """For `logging.config.dictConfig`: every line goes to standard error, if it passes `filters`.

    Libraries' from WARNING on.
    """
    filters = filters or {}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {name: {"()": made} for name, made in filters.items()},
        "formatters": {"line": {"()": LineFormatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": list(filters),
            }
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level} for name, level in _LEVELS.items()},
    }


def configure() -> None:
    """Make this process log so."""
    logging.config.dictConfig(configuration())
    tell_where()


def tell_where() -> None:
    """At `WHERE`, write where each thread is to standard error: what else would say why a process
    stood still?
    """
    faulthandler.register(WHERE, all_threads=True)
