"""`esper replay fold RUN`: what the journal of a run says, without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esper.cli.runs.replay.replay_source import AsJson, From, Run
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.events.seals import Trust
    from esper.journal.replay import FoldReport
    from esper.oona.durable.authentic import Judge

_SHOWN: Final = 5
"""Messages that were set aside and are shown one by one."""


def fold(
    run_id: Run,
    *,
    path: From = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", help="Write the journal's messages, as they are, to this file (Avro)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the journal of a run says: the state of its events.

    It checks that no event is missing, doubled or forged, and compares the state with the one that
    the trainer kept. It executes nothing and takes seconds.
    """
    from esper.bounded import limits_of  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.journal.reading import believed, from_file, from_kafka, journal_in, to_file  # noqa: PLC0415 - as above
    from esper.journal.replay import fold_messages, live_state  # noqa: PLC0415 - as above
    from esper.oona.durable.authentic import Judge, as_received  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above

    require_run_id(run_id)
    settings, clock = Settings.load(), SystemClock()
    limits = limits_of(settings.imports)
    trust = signing.trust(settings.keys_dir)
    if path is not None:
        judge = _judge_of_file(run_id, trust)
        values = journal_in(path, limits) if path.is_dir() else from_file(path, limits)
        messages = as_received(values, run_id, source=str(path))
    else:
        judge = Judge(run_id, trust)
        messages = from_kafka(cluster_of(settings, "viewer"), run_id, clock=clock)
    if save:
        # The file is folded, not the stream: what is reported is what the file has.
        to_file(save, (value for _, value in believed(messages, judge)))
        first, judge = judge, _judge_of_file(run_id, trust)
        messages = as_received(from_file(save, limits), run_id, source=str(save))
        judge.aside, judge.set_aside = first.aside, first.set_aside
    report = fold_messages(messages, judge, live_state(settings.runs_dir / run_id), clock=clock)
    if as_json:
        print(json_text(report.as_json(), sort_keys=True))
    else:
        _show(report)


def _show(report: FoldReport) -> None:
    print(report.sentence())
    for message in report.aside[:_SHOWN]:
        print(f"  {message.sentence()}")
    if report.set_aside > _SHOWN:
        print(f"  So are {report.set_aside - _SHOWN} more; --json has {len(report.aside)} of them.")
    for seed in report.state.seeds:
        if seed.stage != "DORMANT":
            print(
                f"  {seed.layer}[{seed.seed}]  {seed.stage:<13} {seed.family:<10} alpha "
                f"{seed.alpha:g}"
            )


def _judge_of_file(run_id: str, own: Trust) -> Judge:
    """Judges a file, which may come from anywhere: whoever signed its first event is taken at its
    word, and named.
    """
    from esper.events.seals import TRAINER, Trust  # noqa: PLC0415 - as above
    from esper.oona.durable.authentic import Judge  # noqa: PLC0415 - as above

    judge = Judge(run_id, Trust(), strict=True)
    judge.own = own.keys(TRAINER)
    return judge
