"""Where `esper replay` takes a run from: this installation, an export, or a journal file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper.errors import CorruptError, EsperError, KeyMissingError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from esper.tolaria.replay.archive import Archived

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id (`esper runs`).")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help=(
            "A folder of `esper export`, which has all of the run; or a file of `esper replay "
            "fold --save`, which has its journal. This installation, if left out."
        ),
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="The file with the passphrase of the export that --from names.",
    ),
]
FromScratch = Annotated[
    bool,
    typer.Option("--from-scratch", help="Begin at the first step and use no snapshot."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """Where the run is taken from; this installation without a `path`.

    `allow` are functions, by name, that a run from elsewhere may call.
    """

    path: Path | None
    passphrase_file: Path | None
    allow: tuple[str, ...]
    from_scratch: bool

    def __post_init__(self) -> None:
        if self.passphrase_file is not None and self.export is None:
            raise UsageError(
                "--passphrase-file opens the snapshots of an export: name its folder with --from."
            )

    @property
    def export(self) -> Path | None:
        """The folder of an export; None where the run comes from elsewhere."""
        return self.path if self.path is not None and self.path.is_dir() else None


@contextmanager
def executing(origin: ReplaySource) -> Iterator[None]:
    """Within, the run of `origin` is re-executed.

    Raises:
        KeyMissingError: a snapshot is sealed; the sentence names the way that needs no key.
        CorruptError: what a file from elsewhere says cannot be executed.
    """
    try:
        yield
    except KeyMissingError as error:
        if origin.from_scratch:
            raise
        raise KeyMissingError(
            f"{error} Or use no snapshot, with --from-scratch: that needs no key."
        ) from error
    except EsperError:
        raise
    except Exception as error:
        # Somebody else wrote the file, so whatever its content leads to is the file's fault. In a
        # run of this installation the same exception is a fault of Esper and keeps its traceback.
        if origin.path is None:
            raise
        raise CorruptError(
            f"What {origin.path} says cannot be executed: {type(error).__name__}: {error}."
        ) from error


def archived_run(run_id: str, origin: ReplaySource, console: Console) -> Archived:
    """The run as this installation, an export or a journal file has it.

    Raises:
        UsageError: it is nowhere, or another run is there.
        CorruptError: the file is damaged.
        UnavailableError: neither Kafka nor the history answers.
    """
    from esper.bounded import limits_of  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
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
        events = tuple(export.events())
        console.print(
            export.signed_sentence(events, signing.trust(settings.keys_dir)), highlight=False
        )
        passphrase = passphrase_in(origin.passphrase_file)
        return Archived(settings, events, export, passphrase, origin.allow)
    if origin.path is not None:
        read = journal_from_file(origin.path, run_id, limits_of(settings.imports))
        return Archived(settings, tuple(read), allow=origin.allow)
    read, _ = journal(
        settings,
        run_id,
        clock=SystemClock(),
        say=lambda sentence: console.print(sentence, highlight=False),
    )
    return Archived(settings, tuple(read), allow=origin.allow)
