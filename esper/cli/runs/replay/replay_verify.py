"""`esper replay verify RUN`: the whole run re-executed, and compared with what it recorded."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from esper.cli.runs.replay.replay_source import (
    AsJson,
    From,
    FromScratch,
    PassphraseFile,
    ReplaySource,
    Run,
    archived_run,
    executing,
)
from esper.cli.shared.options import Allow
from esper.errors import CorruptError
from esper.json_text import json_text


def verify(
    run_id: Run,
    *,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; one for each core, if left out."),
    ] = None,
    from_scratch: FromScratch = False,
    path: From = None,
    passphrase_file: PassphraseFile = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Prove a run bit for bit: re-execute all of it and compare.

    It compares every digest and snapshot. If anything differs it names the epoch, the step and the
    tensor, and ends with 5. It takes about as long as training, divided by the processes.
    """
    origin = ReplaySource(path, passphrase_file, tuple(allow or ()), from_scratch)
    with executing(origin):
        from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

        console = standard_error()
        source = archived_run(run_id, origin, console)
        from esper.cli.shared.journal_sources import step_reports  # noqa: PLC0415 - as above
        from esper.cli.shared.proving import prove  # noqa: PLC0415 - as above

        proof = prove(
            source,
            console,
            workers=workers,
            from_scratch=from_scratch,
            reports=partial(step_reports, source),
        )
    if as_json:
        print(json_text(proof.as_json(), sort_keys=True), flush=True)
    if proof.narrowed is not None:
        raise CorruptError(proof.sentence())
    if not as_json:
        print(proof.sentence())
