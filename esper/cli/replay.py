"""`esper replay RUN --fold`: fold a run's journal and compare the result with the live state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from esper.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    fold: Annotated[bool, typer.Option("--fold", help="Fold the journal and compare it with the live state.")] = False,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Read the journal from a file that --save wrote, instead of Kafka.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the journal's messages, as they are, to a file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Prove a run's journal: gapless, in order, and giving the state that the trainer had."""
    from esper.cli.broker import bootstrap_of  # noqa: PLC0415
    from esper.clock import SystemClock  # noqa: PLC0415
    from esper.config import Settings  # noqa: PLC0415
    from esper.journal.reading import from_file, from_kafka, to_file  # noqa: PLC0415
    from esper.journal.replay import fold_journal, live_state  # noqa: PLC0415

    if not fold:
        raise UsageError("Say --fold: re-execution of a run's steps is not built yet.")
    settings, clock = Settings(), SystemClock()
    messages = from_file(journal) if journal else from_kafka(bootstrap_of(settings), run_id, clock=clock)
    if save:
        to_file(save, messages)
        messages = from_file(save)
    report = fold_journal(run_id, messages, live_state(settings.runs_dir / run_id), clock=clock)
    if as_json:
        print(json.dumps(report.as_json(), sort_keys=True))
        return
    print(report.sentence())
    for seed in report.state.seeds:
        if seed.stage != "DORMANT":
            print(f"  {seed.layer}[{seed.seed}]  {seed.stage:<13} {seed.family:<10} alpha {seed.alpha:g}")
