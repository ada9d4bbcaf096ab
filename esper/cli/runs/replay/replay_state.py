"""`esper replay state RUN --step N`: one state of a run again, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

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
from esper.errors import UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.cli.shared.run_states import Restored

_ADDRESS: Final = re.compile(r"(\d{1,18}):(\d{1,18})(?::(\d{1,18}))?", re.ASCII)


def state(
    run_id: Run,
    *,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="The state after so many optimizer steps."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIMELINE:STEP[:EVENTS]",
            help=(
                "The same by its address, for a timeline that a rollback left, or for the state "
                "after so many events where several share a step."
            ),
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the state to this new safetensors file."),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="KINDS",
            help="With --out: only model, host, kernels, random; several with commas between.",
        ),
    ] = "",
    from_scratch: FromScratch = False,
    path: From = None,
    passphrase_file: PassphraseFile = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the state of a run at any step, and write it to a file.

    It restores the nearest snapshot before the step and re-executes the steps in between.
    """
    timeline, wanted, events = _address(step, at)
    kinds = tuple(kind.strip() for kind in only.split(",") if kind.strip())
    if kinds and out is None:
        raise UsageError("--only says which tensors are written: name a file with --out.")
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already; name another file with --out.")
    origin = ReplaySource(path, passphrase_file, tuple(allow or ()), from_scratch)
    with executing(origin):
        from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

        console = standard_error()
        source = archived_run(run_id, origin, console)
        from esper.cli.shared.run_states import restored  # noqa: PLC0415 - as above
        from esper.tolaria.replay.state_file import save_state_file  # noqa: PLC0415 - as above

        again = restored(
            source,
            wanted,
            console,
            timeline=timeline,
            sequence=events,
            kinds=kinds,
            from_scratch=from_scratch,
        )
        if out is not None:
            save_state_file(
                out,
                again.snapshot,
                run_id=run_id,
                address=again.address,
                digests=again.digests,
                versions=again.versions,
            )
    if as_json:
        result = {"run_id": run_id, **again.as_json(), "file": str(out or "")}
        print(json_text(result, sort_keys=True))
    else:
        _show(run_id, again, out, part=bool(kinds))


def _address(step: int | None, at: str | None) -> tuple[int | None, int, int | None]:
    """Timeline, step and number of events that the options name; None for what they leave open.

    Raises:
        UsageError: they name none, two, or something else.
    """
    if step is not None and at is None:
        return None, step, None
    if at is None or step is not None:
        raise UsageError(
            "Say which state: --step N, or --at TIMELINE:STEP for a step of another timeline."
        )
    if (match := _ADDRESS.fullmatch(at)) is None:
        raise UsageError(
            f"--at {at} is no address: write TIMELINE:STEP, for instance 0:1234, or "
            "TIMELINE:STEP:EVENTS."
        )
    timeline, number, events = match.groups()
    return int(timeline), int(number), None if events is None else int(events)


def _show(run_id: str, again: Restored, out: Path | None, *, part: bool) -> None:
    how = "rebuilt" if again.executed else "read"
    begun = f"snapshot {again.begun}" if again.begun else "its first step"
    print(f"Run {run_id} stands at {again.address} again, {how} from {begun}.")
    if again.digests.parameters:
        proven = "  as the journal has it" if again.proven else ""
        print(f"  parameters {again.digests.parameters}{proven}")
    if again.digests.state:
        print(f"  all state  {again.digests.state}")
    if out is not None:
        tensors = f", {len(again.snapshot.tensors)} tensors" if part else ""
        print(f"  written to {out}{tensors}")
