"""Where a command finds the journal of a run that it only reads: Kafka, the history's copy, a file,
or an export; and what the run reported of its steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.errors import CorruptError, EsperError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from esper.bounded import Limits
    from esper.clock import Clock
    from esper.config import Settings
    from esper.events import JournalEvent
    from esper.oona.durable.authentic import Judge
    from esper.tolaria.replay.archive import Archived
    from esper.tolaria.replay.figures import StepTold


def journal_from_file(path: Path, run_id: str, limits: Limits) -> Sequence[JournalEvent]:
    """The journal of a run in a file that `esper replay fold --save` or `esper export` wrote, by
    whoever signed its first event.

    Raises:
        UsageError: there is no such file, or it is of another run.
        CorruptError: it is cut off, or is no journal.
    """
    from esper.journal.reading import decoded_whole, from_file  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    return decoded_whole(run_id, from_file(path, limits))


def journal(
    settings: Settings, run_id: str, *, clock: Clock, say: Callable[[str], None]
) -> tuple[Sequence[JournalEvent], Sequence[bytes]]:
    """The journal of a run of this installation and its messages: from Kafka where that is up and
    has it, else as the history has it.

    A stack that is down is left down if the history's folder has the whole run.

    Raises:
        UsageError: neither has the run.
        UnavailableError: neither answers.
        CorruptError: an event that its trainer wrote is missing, changed or out of its place.
    """
    pairs, judge = judged_journal(settings, run_id, clock=clock, say=say)
    for sentence in judge.warnings():
        say(sentence)
    return [event for event, _ in pairs], [value for _, value in pairs]


def judged_journal(
    settings: Settings,
    run_id: str,
    *,
    clock: Clock,
    say: Callable[[str], None],
    tolerant: bool = False,
) -> tuple[Sequence[tuple[JournalEvent, bytes]], Judge]:
    """The same with the judge that followed it, which knows what was set aside and by whom the rest
    is signed. A `tolerant` one goes on behind what is damaged, and names that among its faults.

    Raises as `journal` does; CorruptError only if not tolerant.
    """
    from esper import stack  # noqa: PLC0415 - as above
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.journal.reading import believed, from_kafka  # noqa: PLC0415 - as above
    from esper.oona.durable.authentic import Judge  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above

    trust = signing.trust(settings.keys_dir)
    endpoints = stack.running(settings)
    if endpoints is None and not settings.kafka.bootstrap:
        judge = Judge(run_id, trust, tolerant=tolerant)
        try:
            stored = _from_history(settings, judge)
        except (UsageError, UnavailableError, CorruptError):
            pass
        else:
            if _ended([event for event, _ in stored]):
                say("The stack is down; the journal comes from the history's folder.")
                return stored, judge
    judge = Judge(run_id, trust, tolerant=tolerant)
    try:
        cluster = cluster_of(settings, "viewer")
        return believed(from_kafka(cluster, run_id, clock=clock), judge), judge
    except (UsageError, UnavailableError) as error:
        judge = Judge(run_id, trust, tolerant=tolerant)
        try:
            stored = _from_history(settings, judge)
        except EsperError:
            raise error from None
        say(f"{error} The journal comes from the history, which has {len(stored)} events of it.")
        return stored, judge


def step_reports(source: Archived) -> Mapping[str, StepTold]:
    """What a run reported of its steps, from its export or from the history.

    Nothing, where neither has it.
    """
    from esper.cli.shared.history_source import history_of  # noqa: PLC0415 - as above
    from esper.tolaria.replay.figures import from_export, from_history  # noqa: PLC0415 - as above

    if source.export is not None:
        return from_export(source.export)
    try:
        with history_of(source.settings) as history:
            return from_history(history, source.events[0].run_id)
    except (UsageError, UnavailableError):
        return {}


def passphrase_in(file: Path | None) -> str:
    """The passphrase in a file, without the end of its line; empty when there is no file.

    Raises:
        UsageError: it cannot be read, or is empty.
    """
    if file is None:
        return ""
    try:
        passphrase = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The passphrase in {file} cannot be read: {error}.") from error
    if not passphrase:
        raise UsageError(f"{file} is empty; it has to hold a passphrase.")
    return passphrase


def _from_history(settings: Settings, judge: Judge) -> list[tuple[JournalEvent, bytes]]:
    from esper.cli.shared.history_source import history_of  # noqa: PLC0415 - as above
    from esper.history.stored_journal import messages_of  # noqa: PLC0415 - as above
    from esper.journal.reading import believed  # noqa: PLC0415 - as above

    with history_of(settings) as history:
        return believed(messages_of(history, judge.run_id, judge.trust), judge)


def _ended(events: Sequence[JournalEvent]) -> bool:
    return events[-1].NAME in ("RunCompleted", "RunFailed") and [
        event.sequence for event in events
    ] == list(range(len(events)))
