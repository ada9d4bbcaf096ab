"""`esper replay RUN`: fold a run's journal, rebuild any step of it, or prove all of it by executing
it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esper.cli.shared.options import Allow
from esper.errors import CorruptError, EsperError, KeyMissingError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from esper.events.seals import Trust
    from esper.oona.durable.authentic import Judge
    from esper.tolaria.replay.archive import Archived


_SHOWN: Final = 5  # messages that were set aside


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """Where the run is taken from, if not from this installation."""

    journal: Path | None
    export: Path | None
    passphrase_file: Path | None
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which state, and which kinds of its tensors go to which file."""

    step: int
    timeline: int | None
    out: Path | None
    kinds: tuple[str, ...]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")],
    *,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold the journal and compare it with the live state.")
    ] = False,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="Rebuild the state after so many optimizer steps."),
    ] = None,
    timeline: Annotated[
        int | None,
        typer.Option(
            "--timeline", min=0, help="The timeline of --step; the present one, if left out."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --step: write the state to a safetensors file."),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="KINDS",
            help="With --out: only model, host, kernels, random; several with commas between.",
        ),
    ] = "",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help=(
                "Execute the whole run again, compare with every digest and snapshot, and name "
                "what differs."
            ),
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="With --verify: processes; a core each, if left out."
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch", help="Begin at the first step, whatever snapshots there are."
        ),
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal", help="Read the journal from a file that --save or `esper export` wrote."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Take journal, snapshots, kernels and data from an `esper export`."
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="With --from: the file of its passphrase."),
    ] = None,
    allow: Allow = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", help="With --fold: write the journal's messages, as they are, to a file."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Prove a run by its journal: that it is gapless and gives the state that the trainer had, or
    what any step of it was, bit for bit.
    """
    if [fold, verify, step is not None].count(True) != 1:
        raise UsageError(
            "Say what to do: --fold folds the journal, --step N rebuilds a step, --verify "
            "executes all of the run again."
        )
    origin = ReplaySource(journal, export, passphrase_file, tuple(allow or ()))
    if verify:
        with _hint(from_scratch=from_scratch), _outside(origin):
            _verify(run_id, origin, workers, from_scratch=from_scratch, as_json=as_json)
    elif fold:
        _fold(run_id, origin, save, as_json=as_json)
    elif step is not None:
        kinds = tuple(kind.strip() for kind in only.split(",") if kind.strip())
        with _hint(from_scratch=from_scratch), _outside(origin):
            _step(
                run_id,
                Wanted(step, timeline, out, kinds),
                origin,
                from_scratch=from_scratch,
                as_json=as_json,
            )


@contextmanager
def _outside(origin: ReplaySource) -> Iterator[None]:
    """What is executed is what somebody else wrote down: whatever that leads to is the file's
    fault, and said in a sentence.
    """
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        if (path := origin.export or origin.journal) is None:
            raise
        raise CorruptError(
            f"What {path} says cannot be executed: {type(error).__name__}: {error}."
        ) from error


@contextmanager
def _hint(*, from_scratch: bool) -> Iterator[None]:
    """Where the key of a snapshot is missing, name the way that needs none, unless that
    is the way.
    """
    try:
        yield
    except KeyMissingError as error:
        if from_scratch:
            raise
        raise KeyMissingError(
            f"{error} Or use no snapshot, with --from-scratch: that needs no key."
        ) from error


def _fold(run_id: str, origin: ReplaySource, save: Path | None, *, as_json: bool) -> None:
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
    if (path := origin.export or origin.journal) is not None:
        judge = _of_file(run_id, trust)
        values = journal_in(path, limits) if origin.export else from_file(path, limits)
        messages = as_received(values, run_id, source=str(path))
    else:
        judge, messages = (
            Judge(run_id, trust),
            from_kafka(cluster_of(settings, "viewer"), run_id, clock=clock),
        )
    if save:
        to_file(save, (value for _, value in believed(messages, judge)))
        told, judge = judge, _of_file(run_id, trust)
        messages = as_received(from_file(save, limits), run_id, source=str(save))
        judge.aside, judge.set_aside = told.aside, told.set_aside
    report = fold_messages(messages, judge, live_state(settings.runs_dir / run_id), clock=clock)
    if as_json:
        print(json.dumps(report.as_json(), sort_keys=True))
        return
    print(report.sentence())
    for one in report.aside[:_SHOWN]:
        print(f"  {one.sentence()}")
    if report.set_aside > _SHOWN:
        print(f"  So are {report.set_aside - _SHOWN} more; --json has {len(report.aside)} of them.")
    for seed in report.state.seeds:
        if seed.stage != "DORMANT":
            print(
                f"  {seed.layer}[{seed.seed}]  {seed.stage:<13} {seed.family:<10} alpha "
                f"{seed.alpha:g}"
            )


def _of_file(run_id: str, own: Trust) -> Judge:
    """Judges a file, which may come from anywhere: whoever signed its first event is taken at its
    word, and named.
    """
    from esper.events.seals import TRAINER, Trust  # noqa: PLC0415 - as above
    from esper.oona.durable.authentic import Judge  # noqa: PLC0415 - as above

    judge = Judge(run_id, Trust(), strict=True)
    judge.own = own.keys(TRAINER)
    return judge


def _step(
    run_id: str, wanted: Wanted, origin: ReplaySource, *, from_scratch: bool, as_json: bool
) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    out = wanted.out
    if wanted.kinds and out is None:
        raise UsageError("--only says which tensors are written: name a file with --out.")
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already; name another file with --out.")
    console = Console(stderr=True)
    source = _source(run_id, origin, console)
    from esper.cli.shared.run_states import restored  # noqa: PLC0415 - as above
    from esper.tolaria.replay.state_file import save_state_file  # noqa: PLC0415 - as above

    found = restored(
        source,
        wanted.step,
        console,
        timeline=wanted.timeline,
        kinds=wanted.kinds,
        from_scratch=from_scratch,
    )
    if out is not None:
        save_state_file(
            out,
            found.snapshot,
            run_id=run_id,
            address=found.address,
            digests=found.digests,
            versions=found.versions,
        )
    if as_json:
        print(
            json.dumps(
                {"run_id": run_id, **found.as_json(), "file": str(out or "")}, sort_keys=True
            )
        )
        return
    how = "begun" if found.executed else "read"
    print(
        f"Run {run_id} stands at {found.address} again, {how} from "
        f"{f'snapshot {found.begun}' if found.begun else 'its first step'}."
    )
    if found.digests.parameters:
        print(
            "  parameters "
            f"{found.digests.parameters}{'  as the journal has it' if found.proven else ''}"
        )
    if found.digests.state:
        print(f"  all state  {found.digests.state}")
    if out is not None:
        print(
            "  written to "
            f"{out}{f', {len(found.snapshot.tensors)} tensors' if wanted.kinds else ''}"
        )


def _verify(
    run_id: str, origin: ReplaySource, workers: int | None, *, from_scratch: bool, as_json: bool
) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console(stderr=True)
    source = _source(run_id, origin, console)
    from esper.cli.shared.journal_sources import told_by  # noqa: PLC0415 - as above
    from esper.cli.shared.proving import prove  # noqa: PLC0415 - as above

    proof = prove(
        source, console, workers=workers, from_scratch=from_scratch, told=partial(told_by, source)
    )
    if as_json:
        print(json.dumps(proof.as_json(), sort_keys=True), flush=True)
    if proof.narrowed is not None:
        raise CorruptError(proof.sentence())
    if not as_json:
        print(proof.sentence())


def _source(run_id: str, origin: ReplaySource, console: Console) -> Archived:
    """The run as this installation or an export has it."""
    from esper.bounded import limits_of  # noqa: PLC0415 - as above
    from esper.cli.shared.journal_sources import journal, journal_from_file, passphrase_in  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.journal.portable import opened_export  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - as above
    from esper.tolaria.replay.archive import Archived  # noqa: PLC0415 - as above

    require_run_id(run_id)
    settings = Settings.load()
    if origin.export is not None:
        export = opened_export(origin.export, limits_of(settings.imports))
        if export.content.run_id != run_id:
            raise UsageError(
                f"{origin.export} is an export of run {export.content.run_id}, not of run {run_id}."
            )
        found = tuple(export.events())
        console.print(
            export.signed_sentence(found, signing.trust(settings.keys_dir)), highlight=False
        )
        return Archived(
            settings, found, export, passphrase_in(origin.passphrase_file), origin.allow
        )
    if origin.journal is not None:
        events = journal_from_file(origin.journal, run_id, limits_of(settings.imports))
        return Archived(settings, tuple(events), allow=origin.allow)
    events, _ = journal(
        settings,
        run_id,
        clock=SystemClock(),
        say=lambda sentence: console.print(sentence, highlight=False),
    )
    return Archived(settings, tuple(events), allow=origin.allow)
