"""Exports by a hostile neighbour: a real small one, what is changed in it, and what a reader's
commands make of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esper.cli import app
from esper.errors import EsperError, printable
from esper.events import JournalEvent
from esper.events.codec import encode, frame
from esper.events.records import RunStarted
from esper.events.schemas import current
from esper.journal.exporting import Exporting
from esper.journal.portable import MANIFEST
from esper.journal.reading import JOURNAL, decoded, from_file, to_file
from esper.tolaria.recipes.splits import packed
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, data, recipe
from tests.unit.tolaria.test_reexecution import asking

RUN = "hostile-1"
PASSPHRASE = "correct horse battery staple"  # noqa: S105  # of a test
FUNCTIONS = ("tests.unit.tolaria.laboratory:model", "tests.unit.tolaria.laboratory:data")
ALLOW = ("--allow", FUNCTIONS[0], "--allow", FUNCTIONS[1])


@dataclass(frozen=True, slots=True)
class Real:
    """A run that grew, exported under a passphrase (`export`) and under its installation's key
    (`sealed`); `secret` holds the passphrase.
    """

    export: Path
    sealed: Path
    secret: Path
    events: tuple[JournalEvent, ...]


def real(folder: Path) -> Real:
    """Train and export the run: 16 steps, two kernels, four snapshots."""
    laboratory = Laboratory(
        folder / "home", recipe(run={"epochs": 2, "batch_size": 20}), GROWTH[:3], run_id=RUN
    )
    asking(laboratory, 5, 11)
    laboratory.run()
    events = laboratory.journal()
    kept = folder / "laboratory.safetensors"
    kept.write_bytes(packed(data()))
    for name, passphrase in (("export", PASSPHRASE), ("sealed", "")):
        Exporting(
            settings=laboratory.settings,
            events=events,
            messages=[encode(event).value for event in events],
            data=[kept],
            history=None,
            clock=CLOCK,
            passphrase=passphrase,
        ).to(folder / name)
    others = [
        encode(replace(event, run_id="other-1", signer="", previous="", signature="")).value
        for event in events[:2]
    ]  # before any digest of its state
    to_file(folder / "other.avro", others)
    (folder / "secret").write_text(f"{PASSPHRASE}\n")
    return Real(folder / "export", folder / "sealed", folder / "secret", tuple(events))


def reseal(folder: Path, **changes: Any) -> None:
    """Let the manifest fit the files again, as whoever makes an export may, with some of what it
    says changed.
    """
    path = folder / MANIFEST
    manifest = json.loads(path.read_text()) | changes
    if "files" not in changes:
        found = (
            one
            for one in sorted(folder.rglob("*"))
            if one.is_file() and not one.is_symlink() and one != path
        )
        manifest["files"] = {
            one.relative_to(folder).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest()
            for one in found
        }
    path.write_text(json.dumps(manifest))


def copy_of(export: Path, folder: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(export, folder)
    return folder


def journal_of(folder: Path) -> list[JournalEvent]:
    """The events of an export."""
    return decoded(RUN, from_file(folder / JOURNAL))


def with_events(folder: Path, events: Sequence[JournalEvent]) -> None:
    """Give an export another journal, and a manifest that fits: unsigned, as an earlier Esper's,
    and by no codec that refuses values out of range.
    """
    unsigned = dict.fromkeys(("signer", "previous", "signature"), "")
    to_file(
        folder / JOURNAL,
        [frame({**event.to_avro(), **unsigned}, current(type(event))) for event in events],
    )
    reseal(folder, events=len(events))


def with_config(folder: Path, change: Callable[[dict[str, Any]], Any], **fields: Any) -> None:
    """Give an export another recipe."""
    events = journal_of(folder)
    started = events[0]
    assert isinstance(started, RunStarted)
    config = json.loads(started.config)
    change(config)
    with_events(folder, [replace(started, config=json.dumps(config), **fields), *events[1:]])


@dataclass(frozen=True, slots=True)
class Told:
    """How a command ended: its exit code, its one sentence if it was refused, and all that it
    wrote.
    """

    code: int
    sentence: str
    said: str


def esper(*arguments: str | Path) -> Told:
    """A command in this process, as `main` runs it. What is no user's error comes out as it is."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            app(args=[str(one) for one in arguments], standalone_mode=False)
        except EsperError as error:
            return Told(error.exit_code, printable(str(error)), out.getvalue())
    return Told(0, "", out.getvalue())


def result(told: Told) -> dict[str, Any]:
    """What a command with --json gave."""
    assert told.code == 0, told.sentence
    found: dict[str, Any] = json.loads(told.said.splitlines()[-1])
    return found


def forget(module: str) -> None:
    """Have a module imported anew if anything imports it."""
    sys.modules.pop(module, None)
