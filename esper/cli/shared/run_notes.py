"""Journals of all runs together with what operators say of them."""

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.clock import Clock
    from esper.config import Settings
    from esper.events import Event
    from esper.oona.bus.port import Bus
    from esper.oona.durable.authentic import Journals


def every_run(bus: Bus, journals: Journals, settings: Settings, clock: Clock) -> Iterator[Event]:
    """What is believed of the journals of all runs, each in order, and of `control.runs`.

    What is set aside there is said on standard error.
    """
    from esper.oona.durable.journal_reader import read_journals  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.oona.durable.run_notes import read_notes  # noqa: PLC0415 - as above
    from esper.service.transport.signing import Keyring  # noqa: PLC0415 - as above

    notes = read_notes(bus, Keyring(settings.keys_dir).trust, clock=clock, say=_say)
    return chain(read_journals(bus, journals, clock=clock), notes)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
