"""The history that commands ask: the part of the stack that is up, else its folder or server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from esper.errors import UnavailableError

if TYPE_CHECKING:
    from esper.config import Settings
    from esper.history.queries import QuerySource
    from esper.stack import Endpoints

_CATCH_UP_S = 120.0


def history_of(settings: Settings) -> QuerySource:
    """The history, asked over HTTP while the stack is up.

    One that is there on demand is started by this question, and waited for until it has what is on
    Kafka.

    Raises:
        UsageError: there is no history yet.
        UnavailableError: another process has the folder open, the server does not answer, or nobody
            asked for it before its stack ended.
    """
    from esper import stack  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.history.queries import source  # noqa: PLC0415 - as above

    asleep = stack.asleep(settings, "history")
    endpoints = stack.running(settings)
    if endpoints is not None and asleep:
        _awaken(settings, endpoints)
    elif asleep:
        raise UnavailableError(
            "The history lacks what the last stack did, because nobody asked for it while that was "
            "up (ESPER_PARTS=on_demand): start it by `esper up`, and ask again."
        )
    return source(settings, endpoints.history_url if endpoints else "")


def complete_history(settings: Settings) -> tuple[QuerySource, bool]:
    """The history, waited for until it has what is on Kafka now, and whether it has all of it.

    Raises as `history_of` does.
    """
    from esper import stack  # noqa: PLC0415 - as above

    history = history_of(settings)
    endpoints = stack.running(settings)
    if endpoints is None or not endpoints.history_url:
        return history, history.missing() == 0
    return history, _caught_up(settings, endpoints)


def _caught_up(settings: Settings, endpoints: Endpoints) -> bool:
    from esper.history.queries import wait_caught_up  # noqa: PLC0415 - as above
    from esper.oona.bus.access import Access  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above

    bus = KafkaBus(Access.of(settings, "viewer", bootstrap=endpoints.bootstrap))
    return wait_caught_up(endpoints.history_url, bus, timeout=_CATCH_UP_S, settings=settings)


def _awaken(settings: Settings, endpoints: Endpoints) -> None:
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - as above

    with standard_error().status("starting the history"):
        complete = _caught_up(settings, endpoints)
    if not complete:
        print(
            "The history has just been started and is behind: rows may be missing still.",
            file=sys.stderr,
        )
